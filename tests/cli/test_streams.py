"""Results go to standard output, everything else to standard error; pipes, odd terminals and odd encodings do no harm."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import ROOT, but

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REVIEW = "这部电影很好看"
WITHOUT_MODEL = (
    ["--help"], ["--version"], ["recipe", "list"], ["recipe", "schema"], ["recipe", "show", "freeze"],
    ["recipe", "check", "quickstart"], ["recipe", "check", "quickstart", "--json"], ["model", "list"], ["cache", "list"],
)  # fmt: skip


def pick(task: list[str], *names: str) -> list[str]:
    pairs = zip(task[::2], task[1::2], strict=True)
    return [part for name, value in pairs if name in names for part in (name, value)]


@pytest.fixture
def commands(task: list[str], adapted: Path, tmp_path: Path) -> dict[str, list[str | Path]]:
    """Every command that has --json, as it works."""
    model = task[1]
    return {
        "freeze": ["freeze", *task, "--out", tmp_path / "run"],
        "freeze --dry-run": ["freeze", *task, "--dry-run"],
        "run": ["run", adapted / "recipe.yaml", "--out", tmp_path / "again"],
        "eval": ["eval", "--adapter", adapted, "--eval", pick(task, "--eval")[1]],
        "generate": ["generate", REVIEW, "--adapter", adapted, "--max-tokens", "2"],
        "adapter show": ["adapter", "show", adapted],
        "adapter verify": ["adapter", "verify", adapted, "--model", model],
        "adapter diff": ["adapter", "diff", adapted, adapted],
        "adapter merge": ["adapter", "merge", adapted, "--out", tmp_path / "merged"],
        "adapter export": ["adapter", "export", adapted, "--out", tmp_path / "exported"],
        "model list": ["model", "list"],
        "model show": ["model", "show", model],
        "cache list": ["cache", "list"],
        "cache clear": ["cache", "clear"],
        "recipe list": ["recipe", "list"],
        "recipe check": ["recipe", "check", "freeze"],
    }


NAMES = (
    "freeze", "freeze --dry-run", "run", "eval", "generate", "adapter show", "adapter verify", "adapter diff", "adapter merge",
    "adapter export", "model list", "model show", "cache list", "cache clear", "recipe list", "recipe check",
)  # fmt: skip
QUIET = ("freeze", "freeze --dry-run", "run", "eval", "generate")


@pytest.mark.parametrize("name", NAMES)
def test_json_is_one_object(name: str, commands: dict[str, list[str]], said: Callable[..., Any]) -> None:
    answer = said(*commands[name], "--json")
    assert answer.code == 0, answer.err
    assert isinstance(answer.json(), dict)
    assert answer.out.endswith("}\n")
    assert "error" not in answer.err
    assert "Warning" not in answer.err


@pytest.mark.parametrize("name", NAMES)
def test_people_get_a_table(name: str, commands: dict[str, list[str]], said: Callable[..., Any]) -> None:
    answer = said(*commands[name])
    assert answer.code == 0, answer.err
    assert answer.out.strip()
    assert not answer.out.startswith("{")
    assert "\x1b" not in answer.out + answer.err


@pytest.mark.parametrize("name", QUIET)
def test_quiet_says_nothing_beside_the_result(
    name: str, commands: dict[str, list[str]], said: Callable[..., Any]
) -> None:
    loud = said(*commands[name]) if name in ("eval", "generate") else None
    quiet = said(*commands[name], "--quiet")
    assert quiet.code == 0
    assert quiet.err == ""
    assert quiet.out
    if loud is not None:
        assert loud.err
        assert loud.out == quiet.out


def test_progress_goes_to_standard_error(commands: dict[str, list[str]], said: Callable[..., Any]) -> None:
    answer = said(*commands["freeze"], "--json")
    assert "step 2/2  loss" in answer.err
    assert "step" not in answer.out.replace('"step', "").replace("best_step", "")


def test_every_line_of_a_pipe_is_answered_in_order(task: list[str], said: Callable[..., Any]) -> None:
    lines = [REVIEW, "a fine film", "two\\nlines"]
    answer = said("generate", "--model", task[1], "--max-tokens", "2", "--json", stdin="\n".join(lines).encode())
    told = [json.loads(line) for line in answer.out.splitlines()]
    assert [one["prompt"] for one in told] == [REVIEW, "a fine film", "two\nlines"]


def test_a_run_that_diverges_is_still_json(task: list[str], tmp_path: Path, said: Callable[..., Any]) -> None:
    answer = said("freeze", *task, "--lr", "100", "--set", "train.clip=null", "--out", tmp_path / "run", "--json")
    if answer.code == 0:
        answer.json()
        json.loads((tmp_path / "run" / "result.json").read_text(), parse_constant=refuse)
    else:
        assert answer.out == ""
        assert "unexpected" not in answer.err


@pytest.mark.parametrize("command", ["eval", "adapter merge", "adapter verify", "adapter show"])
def test_numbers_that_are_none_are_still_json(
    command: str, adapted: Path, task: list[str], tmp_path: Path, said: Callable[..., Any]
) -> None:
    """An adapter whose last number is NaN: refused, or told in JSON that every reader takes."""
    shutil.copytree(adapted / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", float("nan")))
    more = {"eval": ["--eval", pick(task, "--eval")[1]], "adapter merge": ["--out", tmp_path / "merged"]}.get(
        command, []
    )
    place = ["--adapter", path.parent] if command == "eval" else [path.parent]
    answer = said(*command.split(), *place, *more, "--json")
    assert answer.code in (0, 3)
    if answer.out:
        answer.json()


def refuse(name: str) -> None:
    raise ValueError(name)


@pytest.mark.parametrize("args", WITHOUT_MODEL, ids=" ".join)
def test_a_reader_that_leaves_is_no_fault(args: list[str], process: Callable[..., Any]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        answer = process(*args, stdout=write)
    finally:
        os.close(write)
    assert answer.stderr == b""


@pytest.mark.parametrize("line", ["recipe schema", "recipe list", "cache list --json", "--help"])
def test_a_full_disk_behind_a_redirection_is_an_error(line: str, process: Callable[..., Any]) -> None:
    with open("/dev/full", "wb") as full:
        answer = process(*line.split(), stdout=full.fileno())
    lines = answer.stderr.decode().splitlines()
    assert answer.returncode == 1
    assert lines[0].startswith("error: standard output")
    assert "No space left" in lines[0]
    assert len(lines) == 2


def test_a_result_is_told_though_its_rows_cannot_be_kept(
    adapted: Path, task: list[str], tmp_path: Path, said: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when all rows have been scored."""
    from ctxtune.backend import atomic

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    rows = pick(task, "--eval")
    done = said("eval", "--adapter", adapted, *rows, "--save", tmp_path / "items.jsonl", "--device", "cpu", "--json")
    assert done.code == 1
    assert done.json()["scores"]["rows"] == 9
    assert f"error: no room on the disk for {tmp_path / 'items.jsonl'}" in done.err
    assert not list(tmp_path.glob("*items*"))


@pytest.mark.parametrize("line", ["recipe list", "recipe schema", "--help"])
def test_a_closed_standard_output_is_an_error_and_a_closed_standard_error_is_none(line: str) -> None:
    words = shlex.join([sys.executable, "-m", "ctxtune", *line.split()])
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    without, silent = (
        subprocess.run(["sh", "-c", f"{words} {end}"], capture_output=True, text=True, check=False, env=env)
        for end in (">&-", "2>&-")
    )
    assert (without.returncode, without.stderr.splitlines()) == (
        1, ["error: standard output is closed", "hint: send it somewhere: > FILE, or > /dev/null"],
    )  # fmt: skip
    assert (silent.returncode, silent.stderr) == (0, "")
    assert silent.stdout


@pytest.mark.parametrize("more", ["", "--json"], ids=["table", "json"])
@pytest.mark.parametrize("name", NAMES)
def test_a_stream_of_ascii_alone_takes_every_result(
    name: str, more: str, commands: dict[str, list[str]], said: Callable[..., Any]
) -> None:
    """As PYTHONIOENCODING=ascii has it: what ASCII lacks is no fault of the command."""
    answer = said(*commands[name], *([more] if more else []), encoding="ascii")
    assert answer.code == 0, answer.err
    if more:
        answer.json()


def test_a_name_that_ascii_lacks_is_printed_somehow(tmp_path: Path, said: Callable[..., Any]) -> None:
    answer = said("recipe", "new", "freeze", "--out", tmp_path / "电影.yaml", encoding="ascii")
    assert answer.code == 0, answer.err
    assert (tmp_path / "电影.yaml").exists()


def test_an_error_names_a_chinese_file_on_any_terminal(said: Callable[..., Any]) -> None:
    assert "电影.yaml" in said("run", "电影.yaml").err
    answer = said("run", "电影.yaml", encoding="ascii")
    assert answer.code == 2
    assert r"\u7535\u5f71.yaml" in answer.err


@pytest.mark.parametrize(
    "env",
    [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}],
    ids=lambda env: " ".join(f"{key}={value}" for key, value in env.items()),
)
def test_a_poor_locale_breaks_nothing(env: dict[str, str], process: Callable[..., Any]) -> None:
    for args in (["recipe", "list"], ["recipe", "check", "quickstart"], ["run", "电影.yaml"], ["freeze", "--help"]):
        answer = process(*args, env=env)
        assert answer.returncode == (2 if "电影.yaml" in args else 0), answer.stderr
        assert b"unexpected" not in answer.stderr
        assert b"Traceback" not in answer.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["recipe", "show", b"\xff.yaml"],
        ["run", b"\xff"],
        ["freeze", "--train", b"\xff.jsonl", "--model", b"\xfe"],
        ["eval", b"\xff"],
        ["adapter", "show", b"\xff"],
        ["adapter", "merge", b"\xff", "--out", b"\xff"],
        ["model", "show", b"\xff"],
        ["model", "pull", b"\xff"],
        ["recipe", "new", b"\xff"],
        ["recipe", "check", "freeze", "--set", b"model=\xff"],
        [b"\xff"],
        [b"--\xff"],
    ],
    ids=repr,
)
def test_bytes_that_are_no_text_are_an_error(args: list[str | bytes], process: Callable[..., Any]) -> None:
    answer = process(*args)
    assert answer.returncode in (2, 3, 4), answer.stderr
    assert answer.stdout == b""
    assert b"Traceback" not in answer.stderr
    assert b"unexpected" not in answer.stderr


def test_a_prompt_that_is_no_text_is_an_error(task: list[str], said: Callable[..., Any]) -> None:
    answer = said("generate", "a\udcff", "--model", task[1])
    assert answer.code in (2, 4)
    assert "unexpected" not in answer.err


def test_a_run_finds_standard_input_closed(task: list[str], tmp_path: Path, said: Callable[..., Any]) -> None:
    answer = said("freeze", *but(task, "--train"), "--train", "-", "--out", tmp_path / "run", stdin=None)
    assert answer.code == 4, answer.err
    assert "standard input" in answer.err


def test_generate_finds_standard_input_closed(task: list[str], said: Callable[..., Any]) -> None:
    assert said("generate", "--model", task[1], stdin=None).code == 4


def test_nobody_waits_for_a_terminal_to_type(task: list[str], tmp_path: Path, said: Callable[..., Any]) -> None:
    answer = said("freeze", *but(task, "--train"), "--train", "-", "--out", tmp_path / "run", terminal=True)
    assert answer.code == 4, answer.err
    talk = said("generate", "--model", task[1], terminal=True)
    assert talk.code == 0, talk.err
    assert talk.out == "> \n"


def test_rows_can_come_through_a_pipe(task: list[str], tmp_path: Path, said: Callable[..., Any]) -> None:
    from pathlib import Path

    rows = Path(pick(task, "--train")[1]).read_bytes()
    piped = said("freeze", *but(task, "--train"), "--train", "-", "--out", tmp_path / "piped", "--json", stdin=rows)
    named = said("freeze", *task, "--out", tmp_path / "named", "--json")
    assert piped.json()["scores"] == named.json()["scores"]


def test_rows_to_score_can_come_through_a_pipe(task: list[str], adapted: Path, said: Callable[..., Any]) -> None:
    from pathlib import Path

    rows = Path(pick(task, "--eval")[1]).read_bytes()
    asked = ["eval", "--adapter", adapted, "--device", "cpu", "--json"]
    piped = said(*asked, "--eval", "-", stdin=rows).json()
    assert piped["eval"] == "-"
    assert piped["scores"] == said(*asked, *pick(task, "--eval")).json()["scores"]
    broken = said(*asked, "--eval", "-", stdin=rows + b"{}\n").complaint()
    assert broken[0].startswith("error: standard input line 10: no field 'text'")
    assert said(*asked, "--eval", "-").complaint()[0] == "error: standard input is empty"


def test_a_run_scores_no_pipe(task: list[str], tmp_path: Path, said: Callable[..., Any]) -> None:
    for more in ([], ["--dry-run"]):
        done = said("freeze", *but(task, "--eval"), "--eval", "-", "--out", tmp_path / "run", *more)
        assert done.code == 2
        assert done.complaint()[0].startswith("error: data.eval -: a run scores its rows again and again")
    both = said("freeze", *but(task, "--train", "--eval"), "--train", "-", "--eval", "-", "--out", tmp_path / "run")
    assert "data.eval -" in both.complaint()[0]
    assert not (tmp_path / "run").exists()


def test_a_dry_run_reads_a_pipe(task: list[str], tmp_path: Path, said: Callable[..., Any]) -> None:
    from pathlib import Path

    rows = Path(pick(task, "--train")[1]).read_bytes()
    dry = ["--out", tmp_path / "run", "--dry-run", "--json"]
    piped = said("freeze", *but(task, "--train"), "--train", "-", *dry, stdin=rows).json()
    assert piped == said("freeze", *task, *dry).json()
    assert not (tmp_path / "run").exists()


def test_a_terminal_gets_a_bar(task: list[str], tmp_path: Path, said: Callable[..., Any]) -> None:
    answer = said("freeze", *task, "--out", tmp_path / "run", "--json", terminal=True)
    assert answer.code == 0, answer.err
    answer.json()
    assert "2/2" in answer.err
    assert "step 2/2" not in answer.err


def test_debug_shows_where_an_error_comes_from(process: Callable[..., Any]) -> None:
    answer = process("--debug", "run", "nothing.yaml")
    assert b"Traceback" in answer.stderr
    assert b"RecipeError" in answer.stderr
