"""The table of scored rows: its means by hand, and the file that it is kept in."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest

from ctxtune.data.hash import sha256_fields
from ctxtune.errors import DataError
from ctxtune.evals.items import Item, averaged, mean_and_error, read_items, summarise, write_items

if TYPE_CHECKING:
    from pathlib import Path


def test_mean_and_error() -> None:
    assert mean_and_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx((2.5, math.sqrt(5 / 3 / 4)))
    assert mean_and_error([1.0, 1.0]) == (1.0, 0.0)


def test_a_single_row_has_no_error() -> None:
    mean, error = mean_and_error([2.5])
    assert mean == 2.5
    assert math.isnan(error)


def test_the_means_of_a_table() -> None:
    found = summarise([Item("a", 1, {"acc": 1.0, "loss": 0.5}), Item("b", 2, {"acc": 0.0, "loss": 1.5})])
    assert found == {"rows": 2, "acc": 0.5, "acc_stderr": 0.5, "loss": 1.0, "loss_stderr": 0.5}


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    items = [
        Item("a", 7, {"acc": 1.0, "loss": 0.1 + 0.2}, {"ll": [-0.1, -math.inf]}),
        Item("b", 9, {"acc": 0.0, "loss": 3.0}, {"text": "grün\u2028"}, 12.0),
    ]
    write_items(tmp_path / "items.jsonl", items)
    lines = (tmp_path / "items.jsonl").read_text(encoding="utf-8").split("\n")
    assert json.loads(lines[0])["said"] == {"ll": [-0.1, None]}  # JSON has no infinity
    back = read_items(tmp_path / "items.jsonl")
    assert [(one.row, one.line, one.scores, one.weight) for one in back] == [
        (one.row, one.line, one.scores, one.weight) for one in items
    ]


def test_a_score_that_was_not_finite_comes_back_as_none(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl", [Item("a", 1, {"acc": 0.0, "loss": math.inf})])
    assert math.isnan(read_items(tmp_path / "items.jsonl")[0].scores["loss"])


@pytest.mark.parametrize("line", [
    '{"text": "a review", "label": "positive"}', '{"row": 3, "scores": {"acc": 1}}', '{"row": "a", "scores": [1]}',
    '{"row": "a", "scores": {}}', '{"row": "a", "scores": {"acc": true}}', '{"row": "a", "scores": {"acc": "1"}}',
    '{"row": "a", "scores": {"acc": 1}, "weight": "2"}', '{"row": "a", "scores": {"acc": 1}, "weight": null}',
    '{"row": "a", "scores": {"acc": 1}, "weight": 0}', '{"row": "a", "scores": {"acc": 1}, "weight": -1}',
])  # fmt: skip
def test_another_file_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"row": "a", "line": 1, "scores": {"acc": 1.0}}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"items\.jsonl line 2: "):
        read_items(path)


def test_a_row_is_known_by_its_fields() -> None:
    row = {"text": "ein grüner Film", "label": 1, "tags": ["a", "b"]}
    assert sha256_fields(row) == sha256_fields(dict(reversed(row.items())))
    assert (
        len({sha256_fields(row), sha256_fields({**row, "label": "1"}), sha256_fields({**row, "tags": ["b", "a"]})}) == 3
    )


def test_a_row_that_was_scored_twice() -> None:
    first, second = Item("a", 3, {"acc": 1.0, "only": 1.0}, {"ll": [1]}), Item("a", 3, {"acc": 0.0}, {"ll": [2]})
    assert averaged([first, second]) == Item("a", 3, {"acc": 0.5}, {"draws": [{"ll": [1]}, {"ll": [2]}]})
    assert averaged([first]) == first
