"""Weights are passes: over many epochs every example comes equally often, and each epoch depends on seed and number alone."""

from __future__ import annotations

from collections import Counter

import pytest

from ctxtune.data.batch import length_buckets
from ctxtune.data.mixture import Mixture, Share


def mixed(*shares: tuple[float, int]) -> Mixture:
    return Mixture(tuple(Share(f"{number}.jsonl", weight, size) for number, (weight, size) in enumerate(shares)))


def test_a_weight_of_one_is_every_example_once() -> None:
    mixture = mixed((1.0, 5), (1.0, 0), (1.0, 3))
    assert mixture.epoch(0, 0) == mixture.epoch(9, 7) == list(range(8))
    assert mixture.per_epoch == 8


@pytest.mark.parametrize(("weight", "drawn"), [(0.5, 10), (0.25, 5), (2.0, 40), (1.5, 30), (0.001, 1), (0.33, 7)])
def test_passes(weight: float, drawn: int) -> None:
    """After whole passes each example has come equally often, and on the way never two times more than another."""
    mixture, seen = mixed((1.0, 4), (weight, 20)), Counter[int]()
    for epoch in range(20):
        found = mixture.epoch(3, epoch)
        assert len(found) == mixture.per_epoch == 4 + drawn
        assert found == sorted(found)
        assert found[:4] == [0, 1, 2, 3]
        seen.update(found[4:])
        counts = [seen[example] for example in range(4, 24)]
        assert max(counts) - min(counts) <= 1
    assert len(set(counts)) == 1
    assert sum(counts) == 20 * drawn


def test_the_halves_of_two_epochs_are_the_whole_and_depend_on_the_seed() -> None:
    mixture = mixed((0.5, 40), (0.5, 40))
    first, second = mixture.epoch(1, 0), mixture.epoch(1, 1)
    assert sorted(first + second) == list(range(80))
    assert first == mixed((0.5, 40), (0.5, 40)).epoch(1, 0)
    assert first != mixture.epoch(2, 0)
    assert [example + 40 for example in first if example < 40] != [example for example in first if example >= 40]


def test_batches_of_what_is_drawn() -> None:
    mixture, lengths = mixed((0.5, 30), (2.0, 5)), list(range(35))
    for epoch in range(4):
        drawn = mixture.epoch(0, epoch)
        batches = length_buckets(lengths, 8, 0, epoch, examples=drawn)
        assert sorted(example for batch in batches for example in batch) == drawn
        assert len(batches) == 4
    assert length_buckets(lengths, 8, 0, 1, examples=range(35)) == length_buckets(lengths, 8, 0, 1)
