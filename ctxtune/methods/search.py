"""Better words found by trial: successive halving over instructions, forms of the question and draws of demonstrations.

    n candidates on r rows, the better half stays, n / 2 on 2 r rows, ... until one is left
    (Jamieson and Talwalkar 2016: most of the work goes to those that deserve it)

A fourth of the places of each round is for edits of the best instructions so far (GrIPS, Prasad et al. 2022; data/phrases.py).
Candidates are compared by -log p(right choice | the choices), the mean over the same rows; of equal ones the earlier stays, and
the first is what the recipe says already.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain, product, zip_longest
from typing import TYPE_CHECKING

from ctxtune.data.phrases import edited

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

_EDITED = 4  # a place in so many of a round is for an edit
_TRIES = 20  # for each of them


@dataclass(frozen=True)
class Candidate:
    """What stands before a question, and how it is asked; `seed` draws the demonstrations, `gone` are phrases of the
    instruction that edits have taken out."""

    instruction: str
    prompt: str
    seed: int
    gone: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Trial:
    """How good a candidate was; less is better: first the rows that do not fit behind it, then the mean loss in nats."""

    unfit: int
    loss: float
    acc: float

    @property
    def order(self) -> tuple[int, float]:
        """What trials are sorted by."""
        return self.unfit, self.loss


@dataclass(frozen=True)
class Round:
    """The candidates of a round, the best first, each tried on so many rows."""

    rows: int
    ranked: list[tuple[Candidate, Trial]]


def first(
    own: Candidate, words: Sequence[str], forms: Sequence[str], seeds: Sequence[int], count: int, chance: Random
) -> list[Candidate]:
    """So many candidates: the recipe's own, then those that differ from it in one thing, then any by lot."""
    changed = [
        [replace(own, instruction=one) for one in words],
        [replace(own, prompt=one) for one in forms],
        [replace(own, seed=one) for one in seeds],
    ]
    near = [one for some in zip_longest(*changed) for one in some if one is not None]
    every = [Candidate(*parts) for parts in product(words, forms, seeds)]
    chance.shuffle(every)
    return list(dict.fromkeys(chain([own], near, every)))[:count]


def plan(count: int, rows: int, most: int) -> list[tuple[int, int]]:
    """How many candidates each round has, and on how many rows."""
    rounds = []
    while count > 1:
        rounds.append((count, min(rows, most)))
        count, rows = count // 2, rows * 2
    return rounds


def questions(rounds: Sequence[tuple[int, int]]) -> list[int]:
    """How often a row is asked in each round, at most: by edits all of its rows, by the others those that are new."""
    asked, before = [], 0
    for place, (count, rows) in enumerate(rounds):
        new = new_in(count) if place else count
        asked.append(new * rows + (count - new) * (rows - before))
        before = rows
    return asked


def new_in(count: int) -> int:
    """The places for edits in a round of so many."""
    return count // _EDITED if count > 2 else 0


def halve(
    candidates: Sequence[Candidate],
    rounds: Sequence[tuple[int, int]],
    tried: Callable[[Sequence[Candidate], int], Sequence[Trial]],
    chance: Random,
) -> list[Round]:
    """Do the rounds; `tried` says how good candidates are on so many rows. The first of the last round is the best."""
    now, seen = list(candidates), set(candidates)
    done: list[Round] = []
    for place, (_, rows) in enumerate(rounds):
        pairs = zip(now, tried(now, rows), strict=True)
        done.append(Round(rows, sorted(pairs, key=lambda pair: pair[1].order)))
        if place + 1 < len(rounds):
            room = rounds[place + 1][0]
            best = [candidate for candidate, _ in done[-1].ranked]
            new = edits(best[: max(1, room // 2)], new_in(room), seen, chance)
            now = [*best[: room - len(new)], *new]
    return done


def edits(best: Sequence[Candidate], count: int, seen: set[Candidate], chance: Random) -> list[Candidate]:
    """As many edits of instructions as there are, at most `count`, none of them `seen`; they are then."""
    found: list[Candidate] = []
    with_words = [one for one in best if one.instruction.strip()]
    for number in range(count * _TRIES):
        if len(found) == count or not with_words:
            break
        parent = with_words[number % len(with_words)]
        instruction, gone = edited(parent.instruction, parent.gone, chance)
        child = replace(parent, instruction=instruction, gone=gone)
        if child not in seen:
            seen.add(child)
            found.append(child)
    return found
