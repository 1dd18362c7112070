"""A run that is killed and resumed gives the same weights, bit for bit (at ten moments and more: benchmarks/freeze_kill.py)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from safetensors.numpy import load_file

from .conftest import ROWS, TASK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Ended

pytestmark = pytest.mark.real
STEPS = 40


def records(run: Path) -> list[dict[str, float]]:
    log = run / "metrics.jsonl"
    lines = log.read_text("utf-8").splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.slow  # test_laws.py kills a tiny model in CI
def test_kill_9_and_resume(
    model: Path, ctxtune: Callable[..., Ended], environment: dict[str, str], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(ROWS.read_text("utf-8").splitlines(keepends=True)[:16]), encoding="utf-8")
    options = [
        "freeze", "--model", str(model), "--train", str(rows), *TASK, "--layers", "last:1", "--batch", "4", "--lr", "1e-4",
        "--set", f"train.steps={STEPS}", "--set", "train.save_every=3", "--set", "forget.probe=none", "--quiet",
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert ctxtune(*options, "--out", whole).code == 0

    command = [sys.executable, "-m", "ctxtune", *options, "--out", str(killed)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(records(killed)) < 5:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 5 <= len(records(killed)) < STEPS
    assert not (killed / "adapter").exists()

    resumed = ctxtune(*options, "--out", killed, "--resume")
    assert resumed.code == 0, resumed.err
    one, other = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (whole, killed))
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    losses = [[record["loss"] for record in records(run)] for run in (whole, killed)]
    assert len(losses[0]) == STEPS
    assert losses[0] == losses[1]
