"""Numbers of a mask that moved least give way to those that the loss asks for (Ansell et al. 2024, "SpIEL"; RigL).

    every n steps, of each tensor   the share r of its units with the smallest mean |D| is dropped,
                                    and as many with the largest mean |sum_t g_t| grow, of all that do not stay
    r                               r_0 (1 - step / steps)

g_t are the gradients of the run's next few batches where the model stands, D and all (scoring.py); no step is taken on them.
A number that is dropped has the base's own value again, bit for bit; one that grows begins at D = 0. AdamW treats it as in a
first step: corrected for the steps that have been counted its moments are G and G^2, G the mean gradient, cut as the loop cuts
it. With moments of 0 its first steps would be up to six times as long as those of others.

A tensor keeps the number of its units, so that D stays one vector of one length; which they are is part of a checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ctxtune.backend.mask import Part, units
from ctxtune.methods.scoring import means, summed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from ctxtune.backend.delta import Delta
    from ctxtune.methods.motion import Backward
    from ctxtune.recipe.mask import Mask as Settings


@dataclass(frozen=True)
class Regrowth:
    """The changes to a mask in a run of so many steps; `names` are the tensors whose units may give way."""

    settings: Settings
    model: nn.Module
    delta: Delta
    names: tuple[str, ...]
    steps: int

    def after(self, step: int, optimizer: torch.optim.Optimizer, backward: Backward, clip: float | None) -> None:
        """What follows a step, counted from 1: nothing, or other numbers from here on."""
        share = self.settings.regrow * (1 - step / self.steps)
        counts = {name: self._count(name, share) for name in self.names}
        if step % self.settings.regrow_every or not any(counts.values()):
            return
        flat = self.delta.flat
        flat.requires_grad_(False)
        sums, passes = summed(self.model, self.names, lambda: backward(step, self.settings.regrow_batches, None))
        flat.requires_grad_(True)
        flat.grad = None
        with torch.no_grad():
            scale = self._scale(sums, passes, clip)
            for name, gradient in sums.items():
                if counts[name]:
                    self._exchange(name, counts[name], gradient, scale, optimizer)

    def state(self) -> dict[str, Tensor]:
        """Which units there are now."""
        return {name: torch.from_numpy(self.delta.pieces[name].part.index) for name in self.names}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Those of an earlier state; their changes are given back by whoever kept these."""
        for name in self.names:
            part = self.delta.pieces[name].part
            self.delta.choose(name, Part(part.kind, part.size, state[name].numpy()))

    def _count(self, name: str, share: float) -> int:
        """Units of a tensor that give way: no more than there are others."""
        part = self.delta.pieces[name].part
        return min(round(share * len(part.index)), units(part.kind, part.size) - len(part.index))

    def _scale(self, sums: Mapping[str, Tensor], passes: int, clip: float | None) -> float:
        """What makes a sum over passes the mean, cut as the loop cuts the gradient of what moves: to the norm `clip`."""
        if clip is None:
            return 1 / passes
        chosen = (sums[name].reshape(-1)[self.delta.places(name)] for name in sums)
        norm = math.sqrt(sum(float(one.double().square().sum()) for one in chosen)) / passes
        return min(1.0, clip / (norm + 1e-6)) / passes

    def _exchange(
        self, name: str, count: int, gradient: Tensor, scale: float, optimizer: torch.optim.Optimizer
    ) -> None:
        """Let `count` units of a tensor go, and as many grow; changes and moments move to the places of the new order."""
        flat, piece = self.delta.flat, self.delta.pieces[name]
        part, state = piece.part, optimizer.state[flat]
        many = len(part.index)
        stay = torch.ones(many, dtype=torch.bool, device=flat.device)
        stay[piece.of(flat).abs().reshape(many, -1).mean(1).topk(count, largest=False).indices] = False
        asked = means(gradient.abs(), part.kind)
        asked[piece.index[stay]] = -1
        grown = asked.topk(count).indices.sort().values
        index, order = torch.cat([piece.index[stay], grown]).sort()
        new = torch.from_numpy(Part(part.kind, part.size, grown.cpu().numpy()).entries()).to(gradient.device)
        mean = (scale * gradient.reshape(-1)[new]).view(count, -1)
        (one, two), steps = optimizer.param_groups[0]["betas"], float(state["step"])
        for vector, begun in (
            (flat, torch.zeros_like(mean)),
            (state["exp_avg"], mean * (1 - one**steps)),
            (state["exp_avg_sq"], mean.square() * (1 - two**steps)),
        ):
            kept = piece.of(vector).reshape(many, -1)[stay]
            piece.of(vector).copy_(torch.cat([kept, begun.to(kept.dtype)])[order].view(part.shape))
        self.delta.choose(name, Part(part.kind, part.size, index.cpu().numpy()))
