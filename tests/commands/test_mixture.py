"""Several weighted files in a run: counted, the same in the dry run, hashed as a whole, and resumed bit for bit."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.commands.dry_run import dry_run
from ctxtune.errors import DataError

from ..conftest import Killed, adapter_tensors, kill_at, losses, review_rows, same_tensors, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Adapt = Callable[..., dict[str, Any]]


@pytest.fixture
def several(tmp_path: Path) -> dict[str, Any]:
    """Three files: 12 rows at half weight, 6 twice, 5 once; 23 examples, 6 + 12 + 5 an epoch, in batches of 8."""
    write_jsonl(tmp_path / "half.jsonl", review_rows(12))
    (tmp_path / "twice.json").write_text(json.dumps(review_rows(6, 40)))
    (tmp_path / "once.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in review_rows(5, 60)).encode())
    )
    train = [
        {"path": str(tmp_path / "half.jsonl"), "weight": 0.5},
        {"path": str(tmp_path / "twice.json"), "weight": 2.0},
        str(tmp_path / "once.jsonl.gz"),
    ]
    return {"data.train": train, "train.steps": None, "train.epochs": 3.0, "train.save_every": 1}


def test_what_is_counted(adapt: Adapt, several: dict[str, Any], resolve: Any, tmp_path: Path) -> None:
    facts = adapt(more=several)
    files = facts["train"]["files"]
    assert [(file["weight"], file["rows"], file["rows_per_epoch"]) for file in files] == [
        (0.5, 12, 6), (2.0, 6, 12), (1.0, 5, 5)
    ]  # fmt: skip
    assert files[1]["path"] == str(tmp_path / "twice.json")
    assert (facts["train"]["rows"], facts["steps"]) == (23, 9)
    foreseen = dry_run(resolve("llama-tied", "x", out="other", more=several), lambda text: None)
    assert (foreseen["files"], foreseen["rows"], foreseen["steps"]) == (files, 23, 9)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(record["supervised"] for record in records) == 3 * 23


@pytest.mark.parametrize("step", [1, 4])
def test_a_killed_run_goes_on_with_the_same_rows(
    step: int, adapt: Adapt, several: dict[str, Any], tmp_path: Path
) -> None:
    adapt(out="straight", more=several)
    with pytest.raises(Killed):
        adapt(out="killed", more=several, at=kill_at(step))
    adapt(out="killed", more=several, resume=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "straight")
    assert same_tensors(adapter_tensors(tmp_path / "killed"), adapter_tensors(tmp_path / "straight"))


def test_weights_of_one_are_one_long_file(adapt: Adapt, reviews: Path, tmp_path: Path) -> None:
    lines = reviews.read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text("".join(lines[:9]))
    (tmp_path / "b.jsonl").write_text("".join(lines[9:]))
    adapt(out="one")
    adapt(out="two", more={"data.train": [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]})
    assert same_tensors(adapter_tensors(tmp_path / "one"), adapter_tensors(tmp_path / "two"))


def test_another_file_meanwhile(adapt: Adapt, several: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        adapt(more=several, at=kill_at(2))
    write_jsonl(tmp_path / "half.jsonl", review_rows(12, 2))
    with pytest.raises(DataError, match=r"half\.jsonl and .* has changed since the recipe was written"):
        adapt(more=several, resume=True)


def test_types_and_dropped_rows_across_files(adapt: Adapt, several: dict[str, Any], tmp_path: Path) -> None:
    long = [{"text": "good " * 40, "label": "positive"}, *review_rows(4)]
    write_jsonl(tmp_path / "half.jsonl", long)
    facts = adapt(more=several | {"data.on_long": "drop", "data.max_length": 60})
    assert [file["rows"] for file in facts["train"]["files"]] == [4, 6, 5]
    assert facts["train"]["dropped"] == 1
    (tmp_path / "twice.json").write_text('[{"text": 3, "label": "positive"}]')
    with pytest.raises(DataError, match=r"twice\.json line 1: field 'text' is a number, but in .*half\.jsonl line 1"):
        adapt(out="other", more=several)
