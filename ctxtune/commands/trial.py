"""Demonstrations tried on rows of the pool that are held out: which of them help, and in which order they stand best."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctxtune.commands.clock import Clock
from ctxtune.data.shots import entropy, grow_by, permutations_of
from ctxtune.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.commands.asking import Asking
    from ctxtune.data.read import Row
    from ctxtune.evals.items import Item
    from ctxtune.methods.fewshot import Shots
    from ctxtune.recipe.schema import Fewshot

_ONE_BY_ONE = 16  # of the candidates, each tried alone, this many are tried behind others
_ORDERS = 24  # as many as Lu et al. 2022 try


def check_order(settings: Fewshot, choices: Sequence[str] | str | None) -> None:
    """Refuse, before anything is loaded, to count labels where there are none.

    Raises:
        RecipeError: answers are written, or every row lists its own choices.
    """
    if settings.order == "global-e" and not isinstance(choices, list):
        what = "answers that are written have" if choices is None else "rows with choices of their own have"
        raise RecipeError(f"method.order global-e: {what} no labels to count", "--order best goes by likelihood")


@dataclass
class Trial:
    """Rows asked behind one set of demonstrations after another; sets that begin alike share what is read of them."""

    asking: Asking
    rows: list[Row]
    settings: Fewshot

    def __post_init__(self) -> None:
        # Nothing is kept or counted; a set behind which a row is too long is no error yet, but the worst of all.
        spec = self.asking.spec
        spec = replace(spec, on_long="drop") if spec.on_long == "error" else spec
        recipe = self.asking.recipe.model_copy(update={"cache": "off"})
        self.asking = replace(
            self.asking, recipe=recipe, spec=spec, clock=Clock(), accepted=None, counts=Counter(), last=None
        )

    def influential(self, candidates: Shots) -> Shots:
        """Demonstrations chosen one after another, each that behind which, with those before, the answers are likeliest."""

        def losses(sets: Sequence[Sequence[int]]) -> list[float]:
            return self._losses([tuple(candidates[place] for place in places) for places in sets])

        shots = self.settings.shots
        places = grow_by(losses, len(candidates), shots, max(_ONE_BY_ONE, shots))
        return tuple(candidates[place] for place in places)

    def ordered(self, shots: Shots) -> Shots:
        """The best of some orders: of least loss (best), or with the most even answers (global-e, Lu et al. 2022)."""
        from ctxtune.evals.choice import argmax

        orders = permutations_of(len(shots), _ORDERS, self.settings.seed)
        sets = [tuple(shots[place] for place in order) for order in orders]
        if self.settings.order == "best":
            good = [-loss for loss in self._losses(sets)]
        else:
            good = [entropy([argmax(item.said["ll"]) for item in items]) for items in self._items(sets)]
        return sets[argmax(good)]

    def _losses(self, sets: Sequence[Shots]) -> list[float]:
        """Of each set: -log p(gold), the mean over the rows, in nats."""
        return [
            -sum(item.said["ll"][item.said["gold"]] for item in items) / len(items)
            if len(items) == len(self.rows)
            else math.inf
            for items in self._items(sets)
        ]

    def _items(self, sets: Sequence[Shots]) -> list[list[Item]]:
        found: list[list[Item]] = [[]] * len(sets)
        for place in sorted(range(len(sets)), key=lambda place: [shot.text for shot in sets[place]]):
            asked = self.asking.items(self.rows, {sets[place]: self.rows})
            found[place] = [item for item in asked if item is not None]
        return found
