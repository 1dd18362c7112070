"""Which rows of a pool become demonstrations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ctxtune.data.shots import choose, directions, entropy, grow_by, in_shares, nearest, permutations_of, unlike
from ctxtune.errors import DataError

LABELS = [0, 0, 0, 0, 1, 0, 2, 0, 1, 0]


def test_fixed_takes_the_first() -> None:
    assert choose("fixed", LABELS, 4, 0) == [0, 1, 2, 3]
    assert choose("fixed", LABELS, 0, 0) == []


@pytest.mark.parametrize("select", ["random", "balanced"])
def test_chance_depends_on_the_seed_alone(select: str) -> None:
    draws = [tuple(choose(select, LABELS, 5, seed)) for seed in range(20)]
    assert draws == [tuple(choose(select, LABELS, 5, seed)) for seed in range(20)]
    assert len(set(draws)) > 10
    assert all(len(set(draw)) == 5 for draw in draws)


def test_random_shows_every_row_as_often() -> None:
    count = Counter(place for seed in range(2000) for place in choose("random", LABELS, 2, seed))
    assert all(330 < count[place] < 470 for place in range(10))


def test_balanced_shows_each_label_in_turn() -> None:
    for seed in range(20):
        drawn = choose("balanced", LABELS, 7, seed)
        assert [LABELS[place] for place in drawn] == [0, 1, 2, 0, 1, 0, 0]  # label 2 has one row, label 1 two


@pytest.mark.parametrize("select", ["fixed", "random", "balanced"])
def test_a_pool_that_is_too_small_is_refused(select: str) -> None:
    with pytest.raises(DataError, match="11 demonstrations are asked for, the training rows are 10") as caught:
        choose(select, LABELS, 11, 0)
    assert "--shots 10" in str(caught.value.hint)


def test_the_nearest_come_first_and_ties_by_place() -> None:
    near = np.array([0.5, 2.0, 0.5, -1.0, 2.0])
    assert nearest(near, 4) == [1, 4, 0, 2]
    assert nearest(near, 2, without=[1]) == [4, 0]
    assert nearest(near, 5, without=[0, 1]) == [4, 2, 3]  # none of these is shown, not even where rows are short
    assert near[1] == 2.0


def test_rows_unlike_those_before_by_trying_all() -> None:
    """Maximal marginal relevance, each step by trying every row."""
    chance = np.random.default_rng(0)
    features = directions(chance.normal(size=(30, 4)).astype(np.float32), np.zeros(4, np.float32))
    near, without = features @ features[29], [3, 29]
    for weight in (0.3, 0.6, 1.0):
        chosen: list[int] = []
        for _ in range(8):
            left = [place for place in range(30) if place not in (*chosen, *without)]
            worst = {place: max((float(features[place] @ features[s]) for s in chosen), default=0) for place in left}
            chosen.append(max(left, key=lambda place: weight * float(near[place]) - (1 - weight) * worst[place]))
        assert unlike(near, features, 8, weight, without) == chosen
    assert unlike(near, features, 8, 1.0, without) == nearest(near, 8, without)
    assert len(unlike(near, features, 30, 0.6, without)) == 28


def test_directions_are_seen_from_the_centre() -> None:
    seen = directions(np.array([[3, 5], [1, 1], [4, 1]], np.float32), np.array([1, 1], np.float32))
    assert seen == pytest.approx(np.array([[2 / 20**0.5, 4 / 20**0.5], [0, 0], [1, 0]]))


def test_demonstrations_are_added_one_after_another() -> None:
    """Of the three that are best alone, the best behind those before; alone, 4 is the best but one, behind 2 the worst."""
    alone = {0: 5.0, 1: 9.0, 2: 1.0, 3: 4.0, 4: 3.0}
    asked = []

    def losses(sets: list[list[int]]) -> list[float]:
        asked.append(sets)
        return [alone[places[-1]] + 10.0 * (4 in places and 2 in places) for places in sets]

    assert grow_by(losses, 5, 3, 3) == [2, 3, 4]
    assert asked == [[[0], [1], [2], [3], [4]], [[2, 4], [2, 3]], [[2, 3, 4]]]


def test_orders_are_all_or_drawn_by_lot() -> None:
    assert permutations_of(3, 24, 0) == [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    assert len(permutations_of(4, 24, 0)) == 24
    drawn = permutations_of(8, 24, 0)
    assert drawn[0] == tuple(range(8))
    assert len(set(drawn)) == 24
    assert all(sorted(order) == list(range(8)) for order in drawn)
    assert drawn == permutations_of(8, 24, 0) != permutations_of(8, 24, 1)


def test_entropy_is_largest_where_answers_are_even() -> None:
    assert entropy([0, 1, 0, 1]) == pytest.approx(np.log(2))
    assert entropy([1, 1, 1]) == 0.0
    assert entropy([0, 0, 0, 2]) == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))


def test_every_beginning_has_the_shares_of_all() -> None:
    labels = [0] * 60 + [1] * 30 + [2] * 10
    order = in_shares(labels, 4)
    assert sorted(order) == list(range(100))
    for number in (10, 20, 50):
        counts = Counter(labels[place] for place in order[:number])
        assert all(abs(counts[label] - number * share) <= 1 for label, share in ((0, 0.6), (1, 0.3), (2, 0.1)))
    assert order == in_shares(labels, 4) != in_shares(labels, 5)
    assert in_shares([], 0) == []
