"""Which demonstrations every question is asked behind: one choice for all of them, or what is nearest to each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ctxtune.data.bm25 import Bm25
from ctxtune.data.shots import check_pool, choose, nearest
from ctxtune.evals.answers import words
from ctxtune.methods.fewshot import by_shots, shots_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.data.encode import EncodeSpec
    from ctxtune.data.read import Row
    from ctxtune.methods.fewshot import Groups, Shots
    from ctxtune.recipe.schema import Fewshot


@dataclass
class Chooser:
    """A pool of rows, from which demonstrations are chosen for questions as they come."""

    pool: Sequence[Row]
    spec: EncodeSpec
    settings: Fewshot
    separator: str

    def groups(self, rows: Sequence[Row]) -> Groups:
        """Rows to be asked, by their demonstrations; none is among its own."""
        if self.settings.by_question:
            check_pool(len(self.pool), self.settings.shots)
            return self._nearest(rows)
        return by_shots(rows, self._for_all, self.spec)

    @cached_property
    def _for_all(self) -> Shots:
        labels = [0] * len(self.pool)
        if self.settings.select == "balanced":
            labels = [self._bare.render(row).gold or 0 for row in self.pool]
        places = choose(self.settings.select, labels, self.settings.shots, self.settings.seed)
        return shots_of([self.pool[place] for place in places], self.spec, self.separator)

    def _nearest(self, rows: Sequence[Row]) -> Groups:
        """Demonstrations of each question's own. Where it is itself in the pool, the next best takes its place."""
        found: Groups = {}
        for row in rows:
            question = self._bare.render(row).prompt
            same = self._places.get(question, [])
            places = nearest(self._index.scores(words(question)), self.settings.shots, same)
            if self.settings.near_last:
                places.reverse()
            found.setdefault(tuple(self._shots[place] for place in places), []).append(row)
        return found

    @cached_property
    def _bare(self) -> EncodeSpec:
        return replace(self.spec, instruction="")

    @cached_property
    def _shots(self) -> Shots:
        """The whole pool."""
        return shots_of(self.pool, self.spec, self.separator)

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Where in the pool a question stands."""
        found: dict[str, list[int]] = {}
        for place, shot in enumerate(self._shots):
            found.setdefault(shot.question, []).append(place)
        return found

    @cached_property
    def _index(self) -> Bm25:
        return Bm25([words(shot.question) for shot in self._shots])
