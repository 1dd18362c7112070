"""Demonstrations drawn as lm-evaluation-harness 0.4 draws them, place by place.

One generator, seeded once, serves all questions in their order (`lm_eval/api/samplers.py`, 0.4.13):

    random   so many of the pool by `random.Random.sample`, anew for each question
    fixed    the first of the pool (`first_n`)

Where the question may itself be in the pool, one more is drawn, rows equal to the question are left out, and what is over is
cut; if too few are left, so many are drawn again from the others. The harness does so where a task's `fewshot_split` and
`test_split` are the same: one split, or neither of them named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

from ctxtune.data.shots import check_pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


@dataclass
class Replay:
    """Draws of so many `shots` from a pool of rows; `one_more`: the question may be one of them."""

    pool: Sequence[Mapping[str, Any]]
    select: str
    shots: int
    seed: int
    one_more: bool
    chance: Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = Random(self.seed)
        self.pool = [_said(row) for row in self.pool]
        self._check(len(self.pool) - self.one_more)

    def places(self, question: Mapping[str, Any]) -> list[int]:
        """Where in the pool the next question's demonstrations stand.

        Raises:
            DataError: the pool is too small.
        """
        if not self.shots:
            return []
        every, asked = range(len(self.pool)), _said(question) if self.one_more else None
        drawn = every if self.select == "fixed" else self.chance.sample(every, self.shots + self.one_more)
        found = list(islice(self._others(drawn, asked), self.shots))
        if len(found) < self.shots:
            rest = list(self._others(every, asked))
            self._check(len(rest))
            found = self.chance.sample(rest, self.shots)
        return found

    def _others(self, places: Iterable[int], asked: Mapping[str, Any] | None) -> Iterator[int]:
        return (place for place in places if asked is None or self.pool[place] != asked)

    def _check(self, rows: int) -> None:
        check_pool(max(rows, 0), self.shots, " beside the question" * self.one_more)


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two rows equal there: a field that is null is as good as missing."""
    return {name: value for name, value in row.items() if value is not None}
