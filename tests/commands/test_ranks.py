"""Several processes, on the CPU: they learn what one learns, checkpoints change hands, and one that dies ends the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ctxtune.commands.accelerate import Processes, read_config
from ctxtune.errors import RecipeError

from ..conftest import losses
from .test_pretrain import LINES

CLOSE = 1e-5
LONG = 120  # steps of a run that is disturbed on its way


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(LINES), encoding="utf-8")
    return path


def words(text: Path, out: Path, steps: int, *more: str) -> list[str]:
    """A batch of 5 rows: the last of an epoch holds what is left, and two processes never have as many."""
    sets = ("method.row=32", "train.save_every=5", "train.eval_every=10")
    return [
        "pretrain", "--train", str(text), "--depth", "1", "--vocabulary", "300", "--batch", "5", "--steps", str(steps),
        "--out", str(out), "--device", "cpu", *(word for one in sets for word in ("--set", one)), *more,
    ]  # fmt: skip


def environment(home: Path) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**clean, "CTXTUNE_HOME": str(home), "OMP_NUM_THREADS": "1"}


def start(home: Path, command: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(home), start_new_session=True)


def run(
    home: Path, given: list[str], launcher: tuple[str, ...] = (sys.executable, "-m", "ctxtune")
) -> tuple[int, str, str]:
    with start(home, [*launcher, *given]) as process:
        out, err = process.communicate(timeout=180)
        return process.returncode, out, err


def done(home: Path, given: list[str], launcher: tuple[str, ...] = (sys.executable, "-m", "ctxtune")) -> str:
    code, out, err = run(home, given, launcher)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def alone(home: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nobody disturbs."""
    out = tmp_path_factory.mktemp("alone") / "run"
    done(home, words(text, out, 60))
    return out


def check_same(out: Path, alone: Path, close: float = CLOSE) -> None:
    """The losses of all steps, and the model: as far as the order of sums lets them be the same."""
    ours, theirs = losses(out), losses(alone)
    assert len(ours) == len(theirs)
    assert ours[:20] == pytest.approx(theirs[:20], abs=close)
    assert ours == pytest.approx(theirs, abs=20 * close)
    models = [load_file(one / "model" / "model.safetensors") for one in (out, alone)]
    for name, value in models[0].items():
        torch.testing.assert_close(value, models[1][name], atol=2e-3, rtol=0)


@pytest.mark.parametrize("more", [(), ("--fsdp",)])
def test_two_processes_learn_what_one_learns(
    home: Path, text: Path, tmp_path: Path, alone: Path, more: tuple[str, ...]
) -> None:
    told = json.loads(done(home, words(text, tmp_path / "run", 60, "--nproc", "2", "--json", *more)))
    check_same(tmp_path / "run", alone)
    theirs = json.loads((alone / "result.json").read_text(encoding="utf-8"))
    assert told["scores"]["after"]["loss"] == pytest.approx(theirs["scores"]["after"]["loss"], abs=1e-4)
    assert {key: told[key] for key in ("steps", "tokens", "parameters")} == {
        key: theirs[key] for key in ("steps", "tokens", "parameters")
    }
    # One log, of one process: each step once.
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line["step"] for line in lines if "seconds" in line]
    assert steps == list(range(1, 61))


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher has started."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def at_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Wait for a step of the log, and a checkpoint."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        log = out / "metrics.jsonl"
        if log.exists() and len(log.read_text("utf-8").splitlines()) >= step and any(out.glob("checkpoint*")):
            return
        time.sleep(0.005)
    raise AssertionError(f"no step {step}: {process.communicate()[1] if process.poll() is not None else 'too slow'}")


@pytest.fixture(scope="module")
def long(home: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("long") / "run"
    done(home, words(text, out, LONG))
    return out


WAYS = {"one": (), "two": ("--nproc", "2"), "shards": ("--nproc", "2", "--fsdp")}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("two", "one", marks=pytest.mark.slow),
        pytest.param("one", "two", marks=pytest.mark.slow),
        ("shards", "one"),
        pytest.param("one", "shards", marks=pytest.mark.slow),
        pytest.param("shards", "two", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_goes_on_in_another_number_of_processes(
    home: Path, text: Path, tmp_path: Path, long: Path, first: str, second: str
) -> None:
    out = tmp_path / "run"
    with start(home, [sys.executable, "-m", "ctxtune", *words(text, out, LONG, *WAYS[first])]) as process:
        at_step(process, out, 12)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
    assert err.count("error: stopped at step") == 1
    assert "--resume goes on" in err
    step = len(losses(out))
    assert step < LONG
    done(home, words(text, out, LONG, *WAYS[second], "--resume"))
    assert len(losses(out)) == LONG
    assert losses(out)[: step + 20] == pytest.approx(losses(long)[: step + 20], abs=20 * CLOSE)
    assert losses(out) == pytest.approx(losses(long), abs=0.02)
    assert len([*out.glob("checkpoint*")]) == (2 if second == "shards" else 1)


def test_a_killed_process_ends_the_run_and_it_goes_on(home: Path, text: Path, tmp_path: Path) -> None:
    calm, out = tmp_path / "calm", tmp_path / "run"
    done(home, words(text, calm, LONG, "--nproc", "2"))
    with start(home, [sys.executable, "-m", "ctxtune", *words(text, out, LONG, "--nproc", "2")]) as process:
        at_step(process, out, 12)
        os.kill(workers(process)[1], signal.SIGKILL)
        begun = time.monotonic()
        _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 30
    assert process.returncode == 1
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "process 1 of this run" in errors[0]
    assert "SIGKILL" in errors[0]
    assert "--resume" in err
    done(home, words(text, out, LONG, "--nproc", "2", "--resume"))
    assert losses(out) == losses(calm)  # to the last bit: the same number of processes


ACCELERATE = (
    "accelerate.commands.launch",
    "--cpu",
    "--num_processes",
    "2",
    "--main_process_port",
    "0",
    "-m",
    "ctxtune",
)


@pytest.mark.parametrize(
    "launcher",
    [
        ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ctxtune"),
        pytest.param(ACCELERATE, marks=pytest.mark.slow),
    ],
)
def test_other_launchers(home: Path, text: Path, tmp_path: Path, alone: Path, launcher: tuple[str, ...]) -> None:
    out = done(home, words(text, tmp_path / "run", 60, "--json"), (sys.executable, "-m", *launcher))
    assert len(out.splitlines()) == 1
    check_same(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_configuration_of_accelerate(home: Path, text: Path, tmp_path: Path, alone: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("distributed_type: MULTI_CPU\nnum_machines: 1\nnum_processes: 2\nmixed_precision: 'no'\n")
    given = ["--accelerate", str(path)]
    done(home, words(text, tmp_path / "run", 60, *given))
    check_same(tmp_path / "run", alone)


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (("--train", "no/such/file.txt"), 4, "no/such/file.txt"),
        pytest.param(("--set", "train.warmup=2"), 2, "train.warmup", marks=pytest.mark.slow),
        (("--nnodes", "2"), 2, "--rdzv"),
        (("--rdzv", "host:port"), 2, "host:port"),
    ],
)
def test_a_mistake_is_told_once(
    home: Path, text: Path, tmp_path: Path, more: tuple[str, ...], code: int, told: str
) -> None:
    found, out, err = run(home, words(text, tmp_path / "run", 20, "--nproc", "2", *more))
    assert found == code, err
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, err
    assert told in err
    assert "Traceback" not in err
    assert not out


def test_what_accelerate_says(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nmixed_precision: bf16\nnum_machines: 2\n"
        "num_processes: 8\nmain_process_ip: node1\nmain_process_port: 29501\nuse_cpu: false\n"
    )
    assert read_config(path) == Processes(4, 2, "node1:29501", sharded=True, dtype="bfloat16")


@pytest.mark.parametrize(
    "said",
    [
        "", "- 1\n", "num_processes: 2\n", "distributed_type: DEEPSPEED\n", "distributed_type: [\n", "\x00\n",
        "distributed_type: MULTI_CPU\nnum_processes: -1\n", "distributed_type: MULTI_CPU\nnum_processes: two\n",
        "distributed_type: MULTI_CPU\nnum_processes: 3\nnum_machines: 2\n",
        "distributed_type: MULTI_CPU\nnum_processes: 2\nmixed_precision: fp16\n",
    ],
)  # fmt: skip
def test_configurations_that_are_wrong(tmp_path: Path, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(said)
    with pytest.raises(RecipeError, match=r"config\.yaml") as met:
        read_config(path)
    assert met.value.hint


@pytest.mark.parametrize(("rank", "size"), [("two", "2"), ("2", "2"), ("-1", "2"), ("0", "0")])
def test_an_environment_that_names_no_process(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    from ctxtune.backend.ranks import ranks

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(RecipeError, match="RANK="):
        ranks()
