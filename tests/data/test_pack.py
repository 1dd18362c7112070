"""Where short examples stand when they share rows of tokens: whole, apart from each other, and with little padding."""

from __future__ import annotations

import itertools
import random

import pytest

from ctxtune.data.batch import padded
from ctxtune.data.encode import Encoded
from ctxtune.data.pack import PAIRS, alone, packed

CHANCE = random.Random(4)
SETS = {
    "like lengths": [CHANCE.randint(20, 24) for _ in range(16)],
    "all lengths": [CHANCE.randint(1, 120) for _ in range(32)],
    "one long": [400, *(CHANCE.randint(1, 30) for _ in range(20))],
    "all equal": [50] * 9,
    "one": [7],
    "two": [7, 3],
    "none": [],
    "empty": [0, 0, 3],
}


def spans(lengths: list[int]) -> dict[int, list[tuple[int, int]]]:
    """Row -> where its examples begin and end, in order."""
    rows: dict[int, list[tuple[int, int]]] = {}
    for (row, first), length in zip(packed(lengths), lengths, strict=True):
        rows.setdefault(row, []).append((first, first + length))
    return {row: sorted(places) for row, places in rows.items()}


@pytest.mark.parametrize("name", SETS)
def test_every_example_is_whole_and_stands_next_to_others(name: str) -> None:
    lengths = SETS[name]
    rows = spans(lengths)
    assert sorted(rows) == list(range(len(rows)))
    for places in rows.values():
        assert places[0][0] == 0
        assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(places))


def shape(lengths: list[int]) -> tuple[int, int]:
    """Rows, and tokens of the fullest."""
    rows = spans(lengths)
    return len(rows), max((places[-1][1] for places in rows.values()), default=0)


@pytest.mark.parametrize("name", SETS)
def test_no_more_tokens_than_padded_rows(name: str) -> None:
    lengths = SETS[name]
    rows, width = shape(lengths)
    assert sum(lengths) <= rows * width <= len(lengths) * max(lengths, default=0)
    if name in ("like lengths", "all lengths"):
        assert rows * width <= 1.08 * sum(lengths)
        assert len(lengths) * max(lengths) > 1.05 * sum(lengths)
    if name == "one long":
        assert (rows, width) == (2, 400)
    if name == "all equal":
        assert packed(lengths) == alone(lengths)


def test_rows_are_no_longer_than_pays() -> None:
    """Of 3 and 4 tokens of padding in 48, none is worth twice the pairs: these count as PAIRS says."""
    short, long = [24, 22] * 8, [24 * 30, 22 * 30] * 8
    assert shape(short) == (8, 46)
    assert shape(long) == (16, 24 * 30)
    assert 16 * 24 * (1 + 24 / PAIRS) > 8 * 46 * (1 + 46 / PAIRS)
    assert 16 * 24 * (1 + 24 * 30 / PAIRS) < 8 * 46 * (1 + 46 * 30 / PAIRS)


def test_places_are_a_matter_of_the_lengths_alone() -> None:
    lengths = SETS["all lengths"]
    expected = packed(lengths)
    random.seed(99)
    assert packed(lengths) == packed(tuple(lengths)) == expected


def test_packed_arrays() -> None:
    some = [Encoded((5, 6, 7), (1, 2), (7, 8)), Encoded((9,), (0,), (4,)), Encoded((3, 2), (1,), (1,))]
    batch = padded(some, 0, packed)
    assert batch.shared
    assert batch.places == [(0, 0), (1, 2), (1, 0)]
    assert batch.ids.tolist() == [[5, 6, 7], [3, 2, 9]]
    assert batch.end.tolist() == [[3, 3, 3], [2, 2, 3]]
    assert batch.order.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert batch.row.tolist() == [0, 0, 1, 1]
    assert batch.position.tolist() == [1, 2, 2, 1]
    assert batch.label.tolist() == [7, 8, 4, 1]
    plain = padded(some, pad_id=0)
    assert not plain.shared
    assert plain.end.tolist() == [[3, 3, 3], [1, 2, 3], [2, 2, 3]]
    assert not plain.branched
    assert plain.order.tolist() == [[0, 1, 2], [0, 0, 0], [0, 1, 0]]
