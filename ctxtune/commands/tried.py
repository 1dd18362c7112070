"""Candidates of a search, asked: each front is read once, rows that were scored stay scored, and only new ones are run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.commands import prepare
from ctxtune.data.encode import EncodeSpec
from ctxtune.data.shots import choose
from ctxtune.evals.calibrate import log_shares
from ctxtune.methods.fewshot import behind, by_shots, formed, shots_of
from ctxtune.methods.search import Trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.commands.asking import Asking
    from ctxtune.data.read import Row
    from ctxtune.evals.items import Item
    from ctxtune.methods.fewshot import Shots
    from ctxtune.methods.search import Candidate
    from ctxtune.recipe.schema import Fewshot, Recipe

_HELD = 1 << 30  # bytes of fronts that stay in memory from round to round


def written(recipe: Recipe, candidate: Candidate) -> Recipe:
    """The recipe that asks as this candidate does. The search's folder is none of its own."""
    data = recipe.data.model_copy(update={"instruction": candidate.instruction, "prompt": candidate.prompt})
    method = recipe.method.model_copy(update={"seed": candidate.seed})
    return recipe.model_copy(update={"data": data, "method": method, "out": None})


@dataclass
class Asked:
    """A candidate with its demonstrations, and what the rows gave so far, None where one did not fit."""

    run: Asking
    shots: Shots
    items: list[Item | None] = field(default_factory=list)

    @property
    def front(self) -> str:
        """What is read before any question."""
        spec = behind(self.shots, self.run.spec)
        return spec.instruction if spec.turns is None else spec.turns.front

    def items_of(self, rows: list[Row]) -> list[Item | None]:
        """What other rows give, each with its hit and -log p(right | choices)."""
        found = self.run.items(rows, by_shots(rows, self.shots, self.run.spec)) if rows else []
        return [item and _normalised(item) for item in found]

    def trial(self) -> Trial:
        """How good it is on the rows so far."""
        fit = [item for item in self.items if item is not None]
        unfit, count = len(self.items) - len(fit), max(1, len(fit))
        return Trial(unfit, *(sum(item.scores[name] for item in fit) / count for name in ("loss", "acc")))


@dataclass
class Tries:
    """The candidates of a search on the same `rows`; `labels` are the places of the right choices in the pool."""

    run: Asking
    settings: Fewshot
    pool: Sequence[Row]
    labels: Sequence[int]
    rows: list[Row] = field(default_factory=list)
    _now: dict[Candidate, Asked] = field(default_factory=dict)

    def __call__(self, candidates: Sequence[Candidate], rows: int) -> list[Trial]:
        """How good each is on the first so many rows. Candidates that do not come again are forgotten."""
        self._now = {one: self._now.get(one) or self.asked(one) for one in candidates}
        held, before = 0, None
        for one in sorted(self._now.values(), key=lambda one: one.front):
            one.run.last = one.run.last or before
            one.items += one.items_of(self.rows[len(one.items) : rows])
            before = one.run.last
            held += self._bytes_a_token * len(before.tokens) if before is not None else 0
            if held > _HELD:
                one.run.last = None
        return [self._now[one].trial() for one in candidates]

    def asked(self, candidate: Candidate) -> Asked:
        """A candidate that was not asked yet. A row that is too long behind it is no error, it counts against it."""
        run = self.opened(candidate)
        recipe = run.recipe.model_copy(update={"cache": "off"})
        spec = replace(run.spec, on_long="drop") if run.spec.on_long == "error" else run.spec
        return Asked(replace(run, recipe=recipe, spec=spec), self.shots(candidate, spec))

    def opened(self, candidate: Candidate) -> Asking:
        """How rows are asked by the recipe of this candidate."""
        base, recipe = self.run.base, written(self.run.recipe, candidate)
        templates = prepare.compile_templates(recipe.data)
        spec = prepare.encoder(recipe.data, templates, base.tokenizer, base.anatomy, base.max_length)
        assert isinstance(spec, EncodeSpec)
        return replace(self.run, recipe=recipe, spec=formed(spec, self.settings), last=None)

    def shots(self, candidate: Candidate, spec: EncodeSpec) -> Shots:
        """The demonstrations that `ctxtune fewshot` draws by the candidate's recipe."""
        rows = [self.pool[place] for place in self.places(candidate.seed)]
        return shots_of(rows, spec, self.run.recipe.data.separator)

    def places(self, seed: int) -> list[int]:
        """Where in the pool the demonstrations of a seed stand."""
        return choose(self.settings.select, self.labels, self.settings.shots, seed)

    @cached_property
    def _bytes_a_token(self) -> int:
        from ctxtune.backend.prefix import bytes_a_token

        return bytes_a_token(self.run.base.model)


def shown(tries: Tries, seeds: Sequence[int]) -> set[int]:
    """The places of all rows that ask what some demonstration of these seeds asks: none of them is scored."""
    bare = replace(tries.run.spec.bare, answer=None)
    questions = [bare.render(row).prompt for row in tries.pool]
    known = Counter(questions[place] for seed in seeds for place in tries.places(seed))
    return {place for place, question in enumerate(questions) if question in known}


def _normalised(item: Item) -> Item:
    """With -log p(right | choices) in the place of -log p(right), as a classifier has it."""
    nats = log_shares(np.array(item.said["ll"], dtype=np.float64))
    return replace(item, scores={"acc": item.scores["acc"], "loss": -float(nats[item.said["gold"]])})
