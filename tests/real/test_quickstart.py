"""Quickstart, from nothing to an adapter, as a user types it."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import ROWS

if TYPE_CHECKING:
    from .conftest import Quickstart

pytestmark = pytest.mark.real


def test_it_prints_a_table_of_its_numbers(quickstart: Quickstart) -> None:
    facts = quickstart.facts
    cells = {line.split("  ")[1].strip(): line for line in quickstart.out.splitlines() if line.startswith("  ")}
    before, after = facts["scores"]["before"], facts["scores"]["after"]
    for name in ("acc", "acc_norm"):
        for scores in (before, after):
            assert f"{scores[name]:.4f} ± {scores[name + '_stderr']:.4f}" in cells[name]
    drift = facts["forgetting"]
    assert f"{drift['before']['loss']:.4f}" in cells["probe loss, nats a token"]
    assert f"{drift['after']['loss']:.4f}" in cells["probe loss, nats a token"]
    assert f"{drift['after']['kl']:.4f}" in cells["KL(base || tuned), nats a token"]
    assert "14,160,384 of 134,515,008" in cells["trained numbers"]  # 4 layers of 3,540,096
    assert f"{facts['adapter']['bytes'] / 1e6:.1f} MB" in cells["adapter"]
    assert f"{facts['steps']} at rates up to {facts['highest_rate']:.1e}" in cells["steps"]
    assert f"{facts['seconds']['total']:.0f} " in cells["seconds"]


def test_the_same_rows_are_asked_behind_examples(quickstart: Quickstart) -> None:
    """What it prints of that; tests/real/test_fewshot.py compares such numbers with a second source."""
    _, _, ways = quickstart.out.partition(f"Accuracy on the same {len(ROWS.read_text('utf-8').splitlines())} rows")
    cells = {line.split("  ")[1].strip(): line for line in ways.splitlines() if line.startswith("  ")}
    scores = quickstart.facts["scores"]
    tuned = f"tuned, {quickstart.facts['trainable']:,} numbers"
    for name, one in (("as it came", scores["before"]), (tuned, scores["after"])):
        assert f"{one['acc']:.4f} ± {one['acc_stderr']:.4f}" in cells[name]
    few, calibrated = (cells[f"behind 16 examples{more}"] for more in ("", ", batch calibration"))
    for line in (few, calibrated):
        found = re.search(r"(\d\.\d{4}) ± 0\.\d{4}", line)
        assert found is not None
        assert 0.5 <= float(found[1]) <= 1
    assert float(few.split()[-2]) < quickstart.facts["seconds"]["total"]


def test_a_prompt_is_learned_on_the_same_rows(quickstart: Quickstart) -> None:
    """Of 512 of the reviews; what the base says of the rows is known by then."""
    run = json.loads(Path(f"{quickstart.facts['out']}-prompt", "result.json").read_text("utf-8"))
    assert run["scores"]["before"] == quickstart.facts["scores"]["before"]
    assert run["scores"]["after"]["acc"] > run["start"]["scores"]["acc"]
    line = next(line for line in quickstart.out.splitlines() if "prompt learned, 4,608 numbers" in line)
    assert f"{run['scores']['after']['acc']:.4f} ± {run['scores']['after']['acc_stderr']:.4f}" in line


def test_a_mask_is_learned_on_the_same_rows(quickstart: Quickstart) -> None:
    """One weight in a hundred of the layers that were tuned first, from the states that were kept then."""
    run = json.loads(Path(f"{quickstart.facts['out']}-mask", "result.json").read_text("utf-8"))
    after, before = run["scores"]["after"], run["scores"]["before"]
    assert before == quickstart.facts["scores"]["before"]
    assert run["cache"] == {**quickstart.facts["cache"], "place": "kept", "difference": run["cache"]["difference"]}
    assert run["trainable"] == pytest.approx(quickstart.facts["trainable"] / 100, rel=0.1)
    assert after["loss"] < before["loss"]
    assert after["acc"] >= before["acc"] - 2 * after["acc_stderr"]
    line = next(line for line in quickstart.out.splitlines() if f"mask tuned, {run['trainable']:,} numbers" in line)
    assert f"{after['acc']:.4f} ± {after['acc_stderr']:.4f}" in line
    assert line.split()[-1] == f"{run['forgetting']['after']['kl']:.4f}"


def test_the_model_learns_and_the_forgetting_is_measured(quickstart: Quickstart) -> None:
    before, after = quickstart.facts["scores"]["before"], quickstart.facts["scores"]["after"]
    assert after["rows"] == len(ROWS.read_text("utf-8").splitlines())
    assert after["acc"] >= before["acc"] - 2 * after["acc_stderr"]
    assert after["loss"] < before["loss"]
    kl = quickstart.facts["forgetting"]["after"]["kl"]
    assert math.isfinite(kl)
    assert kl > 0


def test_it_takes_less_than_four_minutes(quickstart: Quickstart) -> None:
    """Where two cores do 150 GFLOP/s; on a slower machine, or one that is shared, as much longer as its products take."""
    assert quickstart.seconds < 240 * max(1.0, 150 / quickstart.gflops)


def test_the_command_it_shows_works(quickstart: Quickstart, environment: dict[str, str]) -> None:
    (line,) = [line for line in quickstart.err.splitlines() if line.startswith("  echo ")]
    shown = subprocess.run(["bash", "-c", line], capture_output=True, encoding="utf-8", env=environment, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip() == "positive"
