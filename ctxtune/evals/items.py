"""What every scored row gave, as a table that can be kept in a file: one JSON object a line.

    {"row": sha256 of the row's fields, "line": 3, "scores": {"acc": 1.0, "loss": 0.31}, "said": {"ll": [-0.31, -1.32], ...}}

All scores of a result are means over this table; two results are compared row by row (`paired.py`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from ctxtune.backend.atomic import write_text
from ctxtune.data.finite import plain
from ctxtune.data.read import read_rows
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ctxtune.data.read import Row

CHOSEN, CLASSIFIED, LIKELY = "with choices", "as a classifier", "by the likelihood of free answers"
RUNNING, WRITTEN = "as a running text", "by what the model writes"


@dataclass(frozen=True)
class Item:
    """One row: its scores by name, and what the model said that they come from; `weight` counts in every mean."""

    row: str
    line: int
    scores: Mapping[str, float]
    said: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0


def measure(scores: Mapping[str, float]) -> str:
    """How a row was scored, in words, as the names of its scores tell. `loss` means another thing in each.

    By choices it is that of the right choice; of a free answer the token that ends it counts as well; of a running text it is
    that of a token; a classifier has it of its classes alone.
    """
    if "acc" in scores:
        return CHOSEN if "acc_norm" in scores else CLASSIFIED
    if "greedy_acc" in scores:
        return LIKELY
    return RUNNING if "loss" in scores else WRITTEN


def summarise(items: Sequence[Item]) -> dict[str, float]:
    """The number of rows, and of each score the mean with its standard error."""
    numbers: dict[str, float] = {"rows": len(items)}
    for name in items[0].scores:
        numbers[name], numbers[f"{name}_stderr"] = mean_and_error([item.scores[name] for item in items])
    return numbers


def averaged(items: Sequence[Item]) -> Item:
    """One row that was scored several times: the mean of each score that all have; what was said stands in a list."""
    first = items[0]
    if len(items) == 1:
        return first
    names = [name for name in first.scores if all(name in item.scores for item in items)]
    scores = {name: sum(item.scores[name] for item in items) / len(items) for name in names}
    return replace(first, scores=scores, said={"draws": [item.said for item in items]})


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the mean, deviation (n - 1) / sqrt(n); the error of a single value is unknown: nan."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def write_items(path: Path, items: Sequence[Item]) -> None:
    """The table as a file."""
    lines = (json.dumps(plain(vars(item)), ensure_ascii=False) for item in items)
    write_text(path, "".join(line + "\n" for line in lines))


def read_items(path: Path | str) -> list[Item]:
    """The table that an earlier evaluation has written.

    Raises:
        DataError: the file holds something else.
    """
    return [_item(row) for row in read_rows(path, "jsonl")]


def _item(row: Row) -> Item:
    fields = row.fields
    scores, name, weight = fields.get("scores"), fields.get("row"), fields.get("weight", 1.0)
    if not isinstance(scores, dict) or not isinstance(name, str) or not (_is_number(weight) and weight > 0):
        raise DataError(
            f"{row.where}: this is no scored row",
            "name a file that `eval --save` or `fewshot --scores` wrote, an adapter, or base",
        )
    values = {key: math.nan if value is None else value for key, value in scores.items()}
    if not values or not all(_is_number(value) for value in values.values()):
        raise DataError(f"{row.where}: scores is not an object of numbers")
    line = fields.get("line")
    return Item(name, line if isinstance(line, int) else row.line, values, {}, weight)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
