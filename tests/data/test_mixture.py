"""Weights are passes: over many epochs every example comes equally often, and each epoch depends on seed and number alone."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from ctxtune.data.batch import length_buckets
from ctxtune.data.mixture import Beside, Mixture, Share


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


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_what_is_learned_again_has_its_share_of_every_step(share: float) -> None:
    random = Random(7)
    tokens = [random.randint(1, 60) for _ in range(300)] + [random.randint(1, 60) for _ in range(40)]
    beside, seen = Beside(share, 300, tokens), list[int]()
    for epoch in range(4):
        order = random.sample(range(300), 300)
        batches = [order[first : first + 8] for first in range(0, 300, 8)]
        joined = beside.joined(batches, 0, epoch)
        own = again = 0
        for batch, whole in zip(batches, joined, strict=True):
            assert whole[: len(batch)] == batch
            more = whole[len(batch) :]
            assert all(example >= 300 for example in more)
            own, again = own + sum(tokens[i] for i in batch), again + sum(tokens[i] for i in more)
            assert abs(again - own * share / (1 - share)) <= max(tokens) / 2
            seen += more
        assert again / (own + again) == pytest.approx(share, abs=max(tokens) / own)
        assert joined == beside.joined(batches, 0, epoch) != beside.joined(batches, 1, epoch)
    assert len(set(seen)) >= 37  # an epoch goes on where the one before has stopped, to an example or so
