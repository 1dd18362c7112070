from __future__ import annotations

import random

import numpy as np
import pytest

from ctxtune.data.batch import length_buckets, micro_batches, padded
from ctxtune.data.encode import Encoded

CHANCE = random.Random(1)
LENGTHS = [CHANCE.randint(1, 300) for _ in range(1000)]


@pytest.mark.parametrize(("count", "batch"), [(1000, 32), (1000, 1), (5, 8), (64, 32), (0, 4), (1, 1)])
def test_every_example_once_an_epoch_in_full_batches(count: int, batch: int) -> None:
    batches = length_buckets(LENGTHS[:count], batch, seed=3, epoch=2)
    assert sorted(index for one in batches for index in one) == list(range(count))
    assert len(batches) == -(-count // batch)
    assert sorted(map(len, batches), reverse=True)[: count // batch] == [batch] * (count // batch)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    one = length_buckets(LENGTHS, 32, seed=3, epoch=2)
    random.seed(99)
    random.random()
    assert length_buckets(LENGTHS, 32, seed=3, epoch=2) == one
    assert length_buckets(LENGTHS, 32, seed=3, epoch=3) != one
    assert length_buckets(LENGTHS, 32, seed=4, epoch=2) != one
    assert length_buckets(LENGTHS, 32, seed=32, epoch=2) != length_buckets(LENGTHS, 32, seed=3, epoch=22)


def test_the_order_is_the_same_on_every_python() -> None:
    assert length_buckets([5, 1, 4, 1, 5, 9, 2, 6, 5, 3], 3, seed=0, epoch=0) == GOLDEN


GOLDEN = [[5], [1, 3, 6], [9, 2, 8], [4, 0, 7]]


def test_epochs_put_other_examples_together_and_waste_little() -> None:
    neighbours = [{frozenset(one) for one in length_buckets(LENGTHS, 32, seed=0, epoch=epoch)} for epoch in range(2)]
    assert not neighbours[0] & neighbours[1]
    batches = length_buckets(LENGTHS, 32, seed=0, epoch=0)
    fed = sum(len(one) * max(LENGTHS[i] for i in one) for one in batches)
    assert fed < 1.15 * sum(LENGTHS)
    first = [np.mean([LENGTHS[i] for i in one]) for one in batches]
    assert first != sorted(first)  # short and long batches alternate


def test_micro_batches_by_rows() -> None:
    lengths = [3, 9, 1, 9, 5]
    assert micro_batches([0, 1, 2, 3, 4], lengths, rows=2, max_tokens=1) == [[1, 3], [4, 0], [2]]
    assert micro_batches([2, 0], lengths, rows=8, max_tokens=1) == [[0, 2]]
    assert micro_batches([], lengths, rows=2, max_tokens=8) == []


def test_micro_batches_by_padded_tokens() -> None:
    batch = length_buckets(LENGTHS, 64, seed=0, epoch=0)[0] + [LENGTHS.index(max(LENGTHS))]
    pieces = micro_batches(set(batch), LENGTHS, rows=None, max_tokens=600)
    assert sorted(index for piece in pieces for index in piece) == sorted(set(batch))
    widths = [max(LENGTHS[i] for i in piece) for piece in pieces]
    assert widths == sorted(widths, reverse=True)
    assert all(len(piece) * width <= 600 for piece, width in zip(pieces, widths, strict=True))
    assert all((len(piece) + 1) * width > 600 for piece, width in zip(pieces[:-1], widths, strict=False))
    assert micro_batches([0, 1], [700, 3], rows=None, max_tokens=600) == [[0], [1]]
    assert micro_batches([0, 1], [0, 0], rows=None, max_tokens=600) == [[0, 1]]


def test_padding_stands_at_the_right_and_points_at_the_labels() -> None:
    batch = padded([Encoded((5, 6, 7), (1, 2), (7, 8)), Encoded((9,), (0,), (4,))], pad_id=0)
    assert batch.ids.tolist() == [[5, 6, 7], [9, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.row.tolist() == [0, 0, 1]
    assert batch.position.tolist() == [1, 2, 0]
    assert batch.label.tolist() == [7, 8, 4]
    arrays = (batch.ids, batch.mask, batch.row, batch.position, batch.label)
    assert {array.dtype for array in arrays} == {np.dtype("int64")}
    assert padded([], 0).ids.shape == (0, 0)
