"""Which layers move in a step, and at what share of the rate: all of them, one more each epoch, or a few by lot.

    share of layer l     = lr_decay ^ (highest chosen layer - l)            (Howard & Ruder 2018, ULMFiT: 1 / 2.6)
    unfreeze: gradual    in epoch e = 0, 1, ... the e + 1 highest layers    (the same)
    sample: n            in steps jK .. (j + 1)K - 1, K = sample_every, n layers drawn for j   (Pan et al. 2024, LISA)

Embeddings count as layer 0, what follows the last block counts as the last one. Numbers outside the blocks are never
drawn: chosen, they move all the time. Everything follows from the step alone, so that a resumed run sees the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from ctxtune.errors import RecipeError
from ctxtune.recipe.section import MOST_STEPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from ctxtune.backend.mask import Kind
    from ctxtune.recipe.schema import Freeze


Backward = Callable[[int, int, int | None], None]
"""(step, number, rows): the backward pass of the loss on so many batches, those of the run from a step on, or as many of `rows`
of their rows; at most as many as the run has"""

Minding = Callable[["Mapping[str, Kind]", "Sequence[int]"], "Mapping[str, Tensor]"]
"""(name of a tensor -> its kind of units, how many each has) -> the mean over the entries of each unit of their Fisher
information (evals/curvature.py); a tensor that the text never comes by may be lacking"""


@dataclass(frozen=True)
class Span:
    """How long a run is, in optimiser steps, how many of them are an epoch, and where its chance starts.

    `backward` is how a method looks at what the run's rows say of a loaded model before it opens it, `minding` how at what the
    base minds of them, by a text that is none of the rows.
    """

    steps: int
    per_epoch: int
    seed: int = 0
    backward: Backward | None = None
    minding: Minding | None = None


# As long as it takes for everything that may move to have moved.
ENDLESS = Span(MOST_STEPS, 1)


@dataclass(frozen=True)
class Motion:
    """`layer` is where each trained number counts to; `outside` are those that lie in no block."""

    layer: Mapping[str, int]
    outside: frozenset[str]
    settings: Freeze
    span: Span

    def __post_init__(self) -> None:
        drawn = self.settings.sample
        if drawn is not None and drawn > len(self._blocks()):
            raise RecipeError(
                f"method.sample is {drawn}, but method.layers {self.settings.layers!r} chooses {len(self._blocks())} layers",
                "choose more layers, or draw fewer",
            )

    def shares(self, step: int, epoch: int) -> dict[str, float]:
        """Name -> share of the rate at a step, counted from 0; what is not named stands still."""
        moving = self._moving(step, epoch)
        top = max(self.layer.values())
        return {name: self.settings.lr_decay ** (top - self.layer[name]) for name in self.layer if name in moving}

    def ever(self) -> set[str]:
        """The names that move in any step of the run."""
        span, found, settings = self.span, set[str](), self.settings
        every = settings.sample_every if settings.sample is not None else span.per_epoch
        for step in range(0, span.steps, every):
            found |= self._moving(step, step // span.per_epoch)
            if len(found) == len(self.layer):
                break
        return found

    def _moving(self, step: int, epoch: int) -> set[str]:
        """What moves in this step."""
        if self.settings.unfreeze == "gradual":
            layers = sorted(set(self.layer.values()), reverse=True)[: epoch + 1]
            return {name for name, layer in self.layer.items() if layer in layers}
        if self.settings.sample is None:
            return set(self.layer)
        lot = Random(f"layers {self.span.seed} {step // self.settings.sample_every}")
        layers = lot.sample(self._blocks(), self.settings.sample)
        return {name for name, layer in self.layer.items() if name in self.outside or layer in layers}

    def _blocks(self) -> list[int]:
        return sorted({layer for name, layer in self.layer.items() if name not in self.outside})
