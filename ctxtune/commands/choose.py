"""Which demonstrations every question is asked behind: one choice for all of them, or what is nearest to each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ctxtune.commands.prepare import parts_of
from ctxtune.commands.trial import Trial
from ctxtune.data.bm25 import Bm25
from ctxtune.data.clusters import clusters_of
from ctxtune.data.replay import Replay
from ctxtune.data.shots import check_pool, choose, directions, nearest, unlike
from ctxtune.errors import DataError
from ctxtune.evals.answers import words
from ctxtune.evals.shares import LEAST_KNOWN
from ctxtune.methods.fewshot import by_shots, shots_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ctxtune.commands.asking import Asking
    from ctxtune.data.encode import EncodeSpec
    from ctxtune.data.read import Row
    from ctxtune.methods.fewshot import Groups, Shots
    from ctxtune.recipe.data import Data
    from ctxtune.recipe.schema import Fewshot


def check_enough(pool: int, settings: Fewshot, data: Data) -> None:
    """Refuse, before anything is loaded, more demonstrations than there are rows beside those that have another use.

    Raises:
        DataError: it says how many there are.
    """
    other, beside = 0, ""
    if settings.replay is not None:
        other, beside = (1, " beside the question") if _one_more(settings, data) else (0, "")
    elif settings.select == "influence":
        other = _tried_on(pool, settings)
        beside = f" beside {other} that are held out"
    elif settings.on_trial:
        other, beside = 1, " beside one on which an order is tried"
    check_pool(max(0, pool - other), settings.shots, beside)


def _one_more(settings: Fewshot, data: Data) -> bool:
    """Whether the question may be in the pool itself, of what is replayed."""
    if settings.one_more != "auto":
        return settings.one_more
    return data.eval in [part.path for part in parts_of(data.train or [])]


def _tried_on(pool: int, settings: Fewshot) -> int:
    """Rows of the pool that are held out for `influence`: at most a half."""
    return min(settings.held_out, max(1, pool // 2))


@dataclass
class Chooser:
    """A pool of rows, from which demonstrations are chosen for questions as they come."""

    pool: Sequence[Row]
    settings: Fewshot
    separator: str
    asking: Asking
    say: Callable[[str], None]

    def groups(self, rows: Sequence[Row]) -> Groups:
        """Rows to be asked, by their demonstrations; none is among its own, unless what is replayed has it so."""
        if self.settings.replay is not None:
            return self._replayed(rows)
        if self.settings.by_question:
            check_pool(len(self.pool), self.settings.shots)
            return self._nearest(rows) if rows else {}
        return by_shots(rows, self.for_all, self.asking.spec)

    @cached_property
    def for_all(self) -> Shots:
        """Demonstrations that are the same for all questions, but for those that are among them."""
        settings = self.settings
        if not settings.shots:
            return ()
        if settings.select == "influence":
            trial, shots = self._influential()
            return trial.ordered(shots) if settings.on_trial else shots
        shots = shots_of(self._draw(settings.select, self.pool, settings.shots), self.asking.spec, self.separator)
        return Trial(self.asking, self._held_out(shots), settings).ordered(shots) if settings.on_trial else shots

    def _influential(self) -> tuple[Trial, Shots]:
        """Demonstrations, and how they were tried: on at most half of the pool, on none of the candidates."""
        settings = self.settings
        held = self._draw("balanced", self.pool, _tried_on(len(self.pool), settings))
        rest = self._without({self._question(row) for row in held})
        number = min(len(rest), max(settings.candidates, settings.shots))
        drawn = shots_of(self._draw("random", rest, number), self.asking.spec, self.separator)
        candidates = tuple(dict.fromkeys(drawn))
        check_pool(len(candidates), settings.shots, f" beside {len(held)} that are held out")
        self.say(f"demonstrations: {len(candidates)} candidates are tried on {len(held)} held-out rows")
        trial = Trial(self.asking, held, settings)
        return trial, trial.influential(candidates)

    def labelled(self, rows: Sequence[Row], drawn: Iterable[Groups]) -> list[Row]:
        """Rows of the pool that are neither asked nor shown in any draw, of each label alike.

        Raises:
            DataError: of some label too few are left.
        """
        shown = {shot.question for groups in drawn for shots in groups for shot in shots}
        held = self._others(shown | {self._question(row) for row in rows})
        choices, found = self.asking.spec.choices, Counter(self._bare.render(row).gold for row in held)
        for place, choice in enumerate(choices if isinstance(choices, tuple) else ()):
            if found[place] < LEAST_KNOWN:
                raise DataError(
                    f"method.prior auto looks at {LEAST_KNOWN} training rows of each label that are no demonstrations:"
                    f" of {choice!r} there are {found[place]}",
                    "name more rows with --train, or give the shares: --prior 0.9,0.1",
                )
        return held

    def _held_out(self, shots: Shots) -> list[Row]:
        """Rows that are none of the demonstrations."""
        rest = self._others({shot.question for shot in shots})
        if not rest:
            raise DataError("no training row is left on which an order could be tried", "name more rows with --train")
        return rest

    def _others(self, known: set[str]) -> list[Row]:
        rest = self._without(known)
        return self._draw("balanced", rest, min(self.settings.held_out, len(rest)))

    def _without(self, known: set[str]) -> list[Row]:
        """The rows of the pool that ask something else."""
        return [row for row in self.pool if self._question(row) not in known]

    def _question(self, row: Row) -> str:
        return replace(self._bare, answer=None).render(row).prompt

    def _draw(self, select: str, rows: Sequence[Row], number: int) -> list[Row]:
        labels = [self._bare.render(row).gold or 0 if select == "balanced" else 0 for row in rows]
        return [rows[place] for place in choose(select, labels, number, self.settings.seed)]

    def _nearest(self, rows: Sequence[Row]) -> Groups:
        """Demonstrations of each question's own. Where it is itself in the pool, the next best takes its place."""
        found: Groups = {}
        select, shots = self.settings.select, self.settings.shots
        questions = [self._question(row) for row in rows]
        for row, question, near in zip(rows, questions, self._near(questions), strict=True):
            same = self._places.get(question, [])
            if select == "mmr":
                places = unlike(near, self._features, shots, self.settings.mmr_lambda, same)
            else:
                places = nearest(near, shots, same)
            if self.settings.near_last:
                places.reverse()
            found.setdefault(tuple(self._shots[place] for place in places), []).append(row)
        return found

    def _replayed(self, rows: Sequence[Row]) -> Groups:
        """Demonstrations that go on being drawn, question after question."""
        found: Groups = {}
        seen = 0
        for row in rows:
            shots = tuple(self._every[place] for place in self._replay.places(row.fields))
            seen += self._question(row) in {shot.question for shot in shots}
            found.setdefault(shots, []).append(row)
        if seen:
            self.say(f"{seen:,} rows are among their own demonstrations, as {self.settings.replay} draws them")
        return found

    @cached_property
    def _replay(self) -> Replay:
        settings, pool = self.settings, [row.fields for row in self.pool]
        more = _one_more(settings, self.asking.recipe.data)
        return Replay(pool, settings.select, settings.shots, settings.seed, more)

    def _near(self, questions: Sequence[str]) -> Iterator[NDArray[np.floating]]:
        """Of each question, how near every row of the pool is; those of a cluster share the mean over it."""
        if self.settings.select == "bm25":
            yield from (self._index.scores(words(question)) for question in questions)
            return
        seen = directions(self._states(questions, "off"), self._pool_states.mean(0))
        if self.settings.select == "cluster":
            found = clusters_of(seen, self.settings.clusters, self.settings.seed)
            means = [self._features @ seen[found == one].mean(0) for one in range(found.max() + 1)]
            yield from (means[one] for one in found)
            return
        yield from (self._features @ one for one in seen)

    def _states(self, questions: Sequence[str], where: str) -> NDArray[np.float32]:
        from ctxtune.backend.features import text_features

        return text_features(self.asking.base, questions, where, self.asking.mark)

    @cached_property
    def _pool_states(self) -> NDArray[np.float32]:
        self.say(f"demonstrations: the model reads {len(self._shots):,} training rows, if an earlier run has not")
        return self._states([shot.question for shot in self._shots], self.asking.where)

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        """The pool's questions as the model sees them, from their mean."""
        return directions(self._pool_states, self._pool_states.mean(0))

    @cached_property
    def _bare(self) -> EncodeSpec:
        return self.asking.spec.bare

    @cached_property
    def _shots(self) -> Shots:
        """The whole pool, each once."""
        return tuple(dict.fromkeys(self._every))

    @cached_property
    def _every(self) -> Shots:
        return shots_of(self.pool, self.asking.spec, self.separator)

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
