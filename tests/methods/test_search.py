"""Successive halving by hand, on a scorer that is none."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from ctxtune.methods.search import Candidate, Trial, edits, first, halve, plan, questions

if TYPE_CHECKING:
    from collections.abc import Sequence

OWN = Candidate("", "own", 0)


def test_the_first_candidates_differ_in_one_thing_then_in_any() -> None:
    words, forms, seeds = ["", "w1", "w2"], ["own", "f1"], [0, 1]
    found = first(OWN, words, forms, seeds, 64, Random(0))
    assert found[0] == OWN
    near = {Candidate("w1", "own", 0), Candidate("w2", "own", 0), Candidate("", "f1", 0), Candidate("", "own", 1)}
    assert set(found[1:5]) == near
    assert len(found) == len(set(found)) == 12
    assert first(OWN, words, forms, seeds, 7, Random(0)) == found[:7]
    assert {tuple(first(OWN, words, forms, seeds, 64, Random(seed))[:5]) for seed in range(5)} == {tuple(found[:5])}


def test_the_rounds_of_64() -> None:
    assert plan(64, 16, 200) == [(64, 16), (32, 32), (16, 64), (8, 128), (4, 200), (2, 200)]
    assert plan(1, 16, 200) == []
    assert plan(3, 16, 200) == [(3, 16)]


class Fake:
    """Losses that are known: of each prompt its number; and what was asked."""

    def __init__(self, losses: dict[str, float]) -> None:
        self.losses = losses
        self.asked: list[tuple[list[str], int]] = []

    def __call__(self, candidates: Sequence[Candidate], rows: int) -> list[Trial]:
        self.asked.append(([one.prompt for one in candidates], rows))
        return [Trial(0, self.losses[one.prompt], 0.5) for one in candidates]


def test_halving_by_hand() -> None:
    """No instruction, no edit: of 8 the best 4 stay, then the best 2, then one."""
    losses = dict(zip("abcdefgh", [0.5, 0.2, 0.9, 0.2, 0.7, 0.1, 0.8, 0.6], strict=True))
    fake = Fake(losses)
    rounds = halve([Candidate("", name, 0) for name in losses], plan(8, 16, 100), fake, Random(0))
    assert fake.asked == [(list("abcdefgh"), 16), (list("fbda"), 32), (list("fb"), 64)]
    assert [[one.prompt for one, _ in done.ranked] for done in rounds] == [list("fbdahegc"), list("fbda"), list("fb")]
    assert [done.rows for done in rounds] == [16, 32, 64]


def test_of_equal_candidates_the_earlier_stays() -> None:
    fake = Fake(dict.fromkeys("abcd", 0.3))
    rounds = halve([Candidate("", name, 0) for name in "abcd"], plan(4, 16, 100), fake, Random(0))
    assert [one.prompt for one, _ in rounds[-1].ranked] == ["a", "b"]


def test_what_fits_less_is_worse_whatever_its_loss() -> None:
    def tried(candidates: Sequence[Candidate], rows: int) -> list[Trial]:
        return [Trial(3, 0.0, 1.0), Trial(0, 9.0, 0.0)]

    (done,) = halve([OWN, Candidate("", "b", 0)], plan(2, 16, 100), tried, Random(0))
    assert done.ranked[0][0].prompt == "b"


@pytest.mark.parametrize("count", [16, 21, 64])
def test_edits_fill_a_fourth_and_nothing_comes_twice(count: int) -> None:
    seen: list[Candidate] = []
    sizes: list[tuple[int, int]] = []

    def tried(candidates: Sequence[Candidate], rows: int) -> list[Trial]:
        new = [one for one in candidates if one not in seen]
        sizes.append((len(candidates), len(new)))
        assert len(set(candidates)) == len(candidates)
        seen.extend(new)
        return [Trial(0, len(one.instruction) + one.seed, 0.5) for one in candidates]

    first_ones = [
        Candidate("Read the text, then tell, in a word, what it is: good or bad.", "p", s) for s in range(count)
    ]
    rounds = plan(count, 16, 4096)
    halve(first_ones, rounds, tried, Random(3))
    assert sizes[0] == (count, count)
    assert [size for size, _ in sizes] == [number for number, _ in rounds]
    assert [new for _, new in sizes[1:]] == [size // 4 if size > 2 else 0 for size, _ in sizes[1:]]
    rows = [number for _, number in rounds]
    fresh = [
        new * rows[at] + (size - new) * (rows[at] - (rows[at - 1] if at else 0)) for at, (size, new) in enumerate(sizes)
    ]
    assert questions(rounds) == fresh


def test_edits_are_of_the_best_and_of_no_other_thing() -> None:
    best = [Candidate("", "p", 0), Candidate("Good, or bad?", "q", 5)]
    seen = set(best)
    found = edits(best, 2, seen, Random(0))
    assert {(one.prompt, one.seed) for one in found} == {("q", 5)}
    assert len({one.instruction for one in found} - {"Good, or bad?"}) == 2
    assert seen == {*best, *found}
    assert edits(best[:1], 2, seen, Random(0)) == []
