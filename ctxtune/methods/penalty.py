"""What the changes D to the numbers of a mask cost beside the loss of the rows, so that they stay small, or few.

    l2    a/2 sum D_i^2    its gradient a D joins that of the rows, once a step          (Li et al. 2018, "L2-SP")
    l1    a sum |D_i|      after a step D_i comes nearer to 0 by a r / h_i, and rests there (Yun et al. 2021, "ProxGen")
    ewc   a/2 sum F_i D_i^2    as l2, F_i what the base minds (evals/curvature.py)    (Kirkpatrick et al. 2017, "EWC")
                               of a choice by contrast the mean over i's unit, which is known already

where AdamW's step is r m_i / h_i. By a gradient a sign(D) D_i would be thrown to and fro about 0; what comes nearer by the
step's own measure rests at 0 as long as the rows' gradient is smaller than a, which is where the sum of both is least.

All are part of the loss: where its gradient is clipped, so are they. A classifier that begins at zero costs nothing: what it
was is nothing to stay near.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ctxtune.backend.mask import Mask
    from ctxtune.recipe.mask import Mask as Settings


@dataclass
class Penalty:
    """Of the first `count` numbers of `flat`; `l2`, `l1` and `ewc` are the factors a. `fisher` is to be set for ewc."""

    flat: nn.Parameter
    count: int
    l2: float
    l1: float
    ewc: float = 0.0
    fisher: Tensor | None = None

    @property
    def changes(self) -> Tensor:
        """Those that pay."""
        return self.flat.detach()[: self.count]

    def pull(self) -> None:
        """Add what can be differentiated to the gradient of the rows."""
        if self.flat.grad is None:
            self.flat.grad = torch.zeros_like(self.flat)
        self.flat.grad[: self.count].addcmul_(self.changes, self._square())

    def _square(self) -> Tensor:
        """What half the square of each change costs."""
        flat = self.changes.new_tensor(self.l2)
        return flat if self.fisher is None else flat + self.ewc * self.fisher[: self.count]

    def after(self, optimizer: Optimizer, cut: float) -> None:
        """What follows AdamW's step, whose gradient was clipped to so much of itself."""
        if not self.l1:
            return
        state = optimizer.state[self.flat]
        (group,) = (one for one in optimizer.param_groups if any(param is self.flat for param in one["params"]))
        measure = (
            (state["exp_avg_sq"][: self.count] / (1 - group["betas"][1] ** state["step"])).sqrt_().add_(group["eps"])
        )
        nearer = measure.reciprocal_().mul_(group["lr"] * self.l1 * cut)
        self.changes.copy_(self.changes.sign() * (self.changes.abs() - nearer).clamp_(min=0))

    def facts(self) -> dict[str, float]:
        """What D costs as it stands, and which share of it is 0."""
        wide = self.changes.double()
        cost = (self._square() / 2 * wide.square()).sum() + self.l1 * wide.abs().sum()
        return {"value": float(cost), "zeros": float((wide == 0).sum()) / max(1, self.count)}


def of_units(units: Mapping[str, Tensor], mask: Mask) -> Tensor:
    """For each number of a mask, in their order, what is known of its unit: name of a tensor -> one number for each unit."""
    known = []
    for name, part in mask.items():
        index = torch.from_numpy(part.index).to(units[name].device)
        known.append(units[name][index].repeat_interleave(part.numel // len(part.index)))
    return torch.cat(known)


def penalty_of(settings: Settings, flat: nn.Parameter, count: int) -> Penalty | None:
    """What a recipe asks for; None where D costs nothing."""
    return (
        Penalty(flat, count, settings.l2, settings.l1, settings.price)
        if settings.l2 or settings.l1 or settings.price
        else None
    )
