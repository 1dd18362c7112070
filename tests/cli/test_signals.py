"""Ctrl-C and a polite kill: exit 130, one line, and a run that goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import but

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
STEPS = 120


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """start("freeze", ...): a process with pipes at its three streams; killed if it outlives the test."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(*args: str | Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "ctxtune", *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def wait_for(found: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    for _ in range(6000):
        if found():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("nothing happened within a minute")


def steps_done(run: Path) -> int:
    try:
        return (run / "metrics.jsonl").read_text().count('"loss"')
    except OSError:
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stopped_run_goes_on_where_it_was(
    number: signal.Signals, task: list[str], tmp_path: Path, start: Callable[..., Any], said: Callable[..., Any]
) -> None:
    args = ["freeze", *task, "--set", f"train.steps={STEPS}", "--json"]
    run = tmp_path / "run"
    process = start(*args, "--out", run)
    wait_for(lambda: steps_done(run) > 2, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert out == b""
    notes, _, complaint = err.decode().partition("error: ")
    assert "Traceback" not in notes
    assert re.fullmatch(r"stopped (at step \d+ of \d+|by \w+)\n(hint: .*\n)?", complaint), err
    done = steps_done(run)
    assert 2 < done < STEPS
    assert (run / "checkpoint.safetensors").exists()
    assert not (run / "result.json").exists()

    resumed = said("freeze", "--resume", "--out", run, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json()["steps"] == STEPS
    whole = said(*args, "--out", tmp_path / "whole")
    assert resumed.json()["scores"] == whole.json()["scores"]
    assert losses(run) == losses(tmp_path / "whole")
    weights = "adapter/adapter_model.safetensors"
    assert tensors(run / weights) == tensors(tmp_path / "whole" / weights)


def test_a_signal_between_step_and_checkpoint_loses_nothing(
    task: list[str], tmp_path: Path, said: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.engine import loop

    def arrives(*_: object) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return False

    monkeypatch.setattr(loop, "_save_due", arrives)
    answer = said("freeze", *task, "--set", f"train.steps={STEPS}", "--out", tmp_path / "run")
    assert answer.code == 130
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("place", "hint", "again"),
    [
        ("load_to_train", "nothing was begun yet: give the same command again", []),
        (
            "rate_of",
            "no step is on the disk yet: the same command with --resume trains from the beginning",
            ["--resume"],
        ),
        ("_save", "the same command with --resume goes on from the last checkpoint", ["--resume"]),
    ],
)
def test_a_stopped_run_promises_what_is_on_the_disk(
    place: str, hint: str, again: list[str], task: list[str], tmp_path: Path, said: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from ctxtune.commands import adapt

    with monkeypatch.context() as patch:
        owner = adapt._Run if place.startswith("_") else adapt
        patch.setattr(owner, place, lambda *_: signal.raise_signal(signal.SIGINT))
        answer = said("freeze", *task, "--out", tmp_path / "run")
    assert (answer.code, answer.complaint()) == (130, ["error: stopped by SIGINT", f"hint: {hint}"])
    assert said("freeze", *task, "--out", tmp_path / "run", *again).code == 0


INTERRUPTED = """
import os, signal, sys

class Sender:
    def find_spec(name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # under a script's background job it is not heard
sys.meta_path.insert(0, Sender)
from ctxtune.__main__ import main
main()
"""


@pytest.mark.parametrize("moment", ["typer", "ctxtune.cli.console", "pydantic"])
def test_ctrl_c_during_an_import(moment: str, tmp_path: Path) -> None:
    """Before there is a command line, and in a command that imports what it needs."""
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.replace("sys.argv[1]", repr(moment)), "recipe", "schema"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stdout) == (130, "")
    assert process.stderr in ("", "error: interrupted\n")


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def tensors(path: Path) -> bytes:
    """The numbers of a safetensors file, without its header, in which dates stand."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_a_run_that_is_there_is_not_written_over(task: list[str], adapted: Path, said: Callable[..., Any]) -> None:
    before = {path: path.read_bytes() for path in adapted.rglob("*") if path.is_file()}
    assert said("freeze", *task, "--out", adapted).code == 2
    assert {path: path.read_bytes() for path in adapted.rglob("*") if path.is_file()} == before


def test_two_runs_do_not_share_a_folder(task: list[str], tmp_path: Path, said: Callable[..., Any]) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = said("freeze", *task, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "another run is writing there" in answer.err


def test_ctrl_c_at_a_command_that_waits_for_lines(task: list[str], start: Callable[..., Any]) -> None:
    process = start("generate", "--model", task[1])
    assert process.stderr.readline().startswith(b"device: ")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert err in (b"", b"error: interrupted\n")


def test_ctrl_c_at_a_run_that_waits_for_rows(task: list[str], tmp_path: Path, start: Callable[..., Any]) -> None:
    process = start("freeze", *but(task, "--train"), "--train", "-", "--out", tmp_path / "run")
    wait_for(lambda: (tmp_path / "run").exists() and any((tmp_path / "run").iterdir()), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert err == b"error: stopped by SIGINT\nhint: nothing was begun yet: give the same command again\n"
    assert list(tmp_path.rglob(".stdin*")) == []
