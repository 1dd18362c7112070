"""Gates learn which units of a mask are worth their numbers: L0 regularisation with hard concrete gates.

    D_i = z_i w_i                       one gate for all numbers of a unit: a column, an entry, ...
    s = sigmoid((log u - log(1 - u) + a) / b),  z = min(1, max(0, s (zeta - gamma) + gamma))
    P(z != 0) = sigmoid(a - b log(-gamma / zeta))

with u uniform, drawn once a step (Louizos et al. 2018; on changes: Guo et al. 2021, "diff pruning"). w begins at 0, so that
the base is what a run starts from.

How many are open is no term of the loss with a price to be found, which in a run of a few hundred steps comes too late or too
soon. After step k all a are shifted alike, so that the numbers that are open in the mean are exactly the share

    d_k = d + (d_0 - d)(1 - k / K)^3    of the candidates       (Zhou et al. 2021, "ProbMask"; Zhu & Gupta 2017)

and after step K the gates decide: the share d with the highest a stays, of each tensor a tenth of its part and one at least, w
takes in the mean of their gates, and the rest of the run trains these as any mask. A gate goes by

    10 / K  m / sqrt(mean over all gates of v)

m and v AdamW's moments of the gradient of its a, a number of the unit: v of its own would lift what the loss hardly asks for as
fast as what it asks for most. How far gates get must not depend on the rate of w, either. That is d / d_k of the rate: the more
move, the less moves each.

Whatever is only scored is scored with what a file would hold now: w under the mean gates of those that would stay.
"""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ctxtune.backend.delta import Delta
from ctxtune.backend.mask import Part, numel
from ctxtune.methods.choosing import ranked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.optim import Optimizer

    from ctxtune.backend.mask import Index

LOW, HIGH, HEAT = -0.1, 1.1, 2 / 3
"""gamma, zeta and b"""
_SURE = HEAT * math.log(-LOW / HIGH)
_OPEN = 0.9  # of the candidates in the mean, before the first step
_REACH = 10.0  # how far a gate can get in K steps
_DECIDED = 1e4  # a of a gate that is open, or closed, for good


class Gates:
    """The gates of tensors `names` of `delta`, which stand first in it, of whose numbers the share `density` is to stay.

    They decide after `steps` steps. `changes` is w, also of what has no gate; `logits` is a.
    """

    ewc = 0.0
    fisher: Tensor | None = None

    def __init__(self, delta: Delta, names: tuple[str, ...], density: float, steps: int, seed: int) -> None:
        self.delta = delta
        self.density = density
        self.steps = steps
        self.parts = {name: delta.pieces[name].part for name in names}
        self.flat = delta.flat
        self.changes = nn.Parameter(torch.zeros_like(delta.flat))
        ends = list(accumulate((len(part.index) for part in self.parts.values()), initial=0))
        self._spans = dict(zip(self.parts, pairwise(ends), strict=True))
        counts = torch.tensor([len(part.index) for part in self.parts.values()])
        widths = torch.tensor([part.numel // len(part.index) for part in self.parts.values()])
        self._widths = widths.repeat_interleave(counts).to(self.flat)
        chance = np.random.default_rng([seed, 78]).standard_normal(ends[-1] if not self.flat.is_meta else 0)
        logits = self.flat.new_empty(ends[-1]) if self.flat.is_meta else torch.from_numpy(chance).to(self.flat)
        self.logits = nn.Parameter(0.01 * logits + math.log(_OPEN / (1 - _OPEN)) + _SURE)  # no two alike
        self._drawn: tuple[Tensor, Tensor] | None = None
        self._laid: tuple[int, ...] | None = None
        self._taken = 0

    @property
    def params(self) -> dict[str, nn.Parameter]:
        """What is learned."""
        return {"delta": self.changes, "gates": self.logits}

    def shares(self, step: int) -> dict[str, float]:
        """Of the rate, in a step counted from 0: AdamW keeps the moments of gates, and does not move them."""
        return {"delta": self.density / self._open(step), "gates": 0.0}

    def lay(self) -> None:
        """Put into the model's D what a pass computes with: drawn gates if it learns, else what would stay."""
        learns = torch.is_grad_enabled()
        if learns and self._drawn is None:
            self._drawn = self._draw()
        state = (learns, self._taken, self.changes._version, self.logits._version)
        if state == self._laid:
            return
        with torch.no_grad():
            gates = self._drawn[0] if learns and self._drawn is not None else self._kept_gates()
            self.flat.copy_(self.changes)
            for name, values in self._by_unit(self.flat):
                values.mul_(self._of(gates, name)[:, None])
        self._laid = state

    def pull(self) -> None:
        """Turn the gradient of D into those of w and of a."""
        gradient = self.flat.grad if self.flat.grad is not None else torch.zeros_like(self.flat)
        drawn = self._drawn
        self.flat.grad, self._drawn, self._laid = None, None, None
        self.changes.grad, self.logits.grad = gradient, torch.zeros_like(self.logits)
        if drawn is None:  # nothing ran
            return
        with torch.no_grad():
            values = dict(self._by_unit(self.changes))
            for name, pulled in self._by_unit(gradient):
                asked = (pulled * values[name]).sum(1)
                self._of(self.logits.grad, name).copy_(asked * self._of(drawn[1], name))
                pulled.mul_(self._of(drawn[0], name)[:, None])

    def after(self, optimizer: Optimizer, cut: float) -> None:
        """Move the gates, once AdamW has seen their gradient; after step K let them decide."""
        self._taken += 1
        state = optimizer.state[self.logits]
        step = int(state["step"])
        if self._decided:
            return
        one, two = optimizer.defaults["betas"]
        size = math.sqrt(float((state["exp_avg_sq"] / self._widths**2).mean()) / (1 - two**step))
        with torch.no_grad():
            if size:
                self.logits.sub_(state["exp_avg"] / self._widths, alpha=_REACH / self.steps / (1 - one**step) / size)
            if step < self.steps:
                self._shift(self._open(step))
            else:
                self.decide()

    def decide(self) -> None:
        """Let those stay that would stay now, and no others, for good; a second call does nothing."""
        if self._decided:
            return
        with torch.no_grad():
            gates = self._kept_gates()
            stay = self._stay()
            for name, values in self._by_unit(self.changes):
                values.mul_(self._of(gates, name)[:, None])
            self.logits.copy_(torch.where(stay, _DECIDED, -_DECIDED))

    def kept(self) -> Delta:
        """The changes of those that stay, and of what has no gate, as a mask of their own."""
        stay = self._staying()
        parts = {name: piece.part for name, piece in self.delta.pieces.items()}
        few = {name: Part(part.kind, part.size, part.index[stay[name]]) for name, part in self.parts.items()}
        found = Delta(self.delta.model, parts | few)
        if self.flat.is_meta:
            return found
        with torch.no_grad():
            for name, piece in found.pieces.items():
                values = self.delta.pieces[name].of(self.changes)
                piece.of(found.flat).copy_(values[torch.from_numpy(stay[name])] if name in few else values)
        return found

    def facts(self) -> dict[str, float]:
        """How many numbers there were to choose from, by how many gates, and how many stay."""
        kept = int(self._widths[self._stay()].sum())
        return {"candidates": numel(self.parts), "gates": len(self.logits), "kept": kept}

    @property
    def _decided(self) -> bool:
        return abs(float(self.logits.detach()[0])) >= _DECIDED

    def _open(self, step: int) -> float:
        """The share of the candidates that is open in the mean after so many steps."""
        left = max(0.0, 1 - step / self.steps)
        return self.density + max(0.0, _OPEN - self.density) * left**3

    def _draw(self) -> tuple[Tensor, Tensor]:
        """z, and dz / da."""
        if self._decided:
            gates = (self.logits.detach() > 0).to(self.logits.dtype)
            return gates, torch.zeros_like(gates)
        chance = torch.rand(len(self.logits), dtype=self.logits.dtype).clamp_(1e-6, 1 - 1e-6).to(self.logits.device)
        s = ((chance.log() - (-chance).log1p() + self.logits.detach()) / HEAT).sigmoid()
        wide = s * (HIGH - LOW) + LOW
        between = (wide > 0) & (wide < 1)
        return wide.clamp(0, 1), torch.where(between, (HIGH - LOW) / HEAT * s * (1 - s), 0.0)

    def _kept_gates(self) -> Tensor:
        """The means of the gates that would stay, 0 of all others."""
        logits = self.logits.detach()
        mean = (logits.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)
        return mean if self._decided else mean * self._stay()

    def _stay(self) -> Tensor:
        stay = torch.zeros_like(self.logits, dtype=torch.bool)
        for name, index in self._staying().items():
            self._of(stay, name)[torch.from_numpy(index).to(stay.device)] = True
        return stay

    def _staying(self) -> dict[str, Index]:
        """Which of each tensor's units stay, or would, by their place among the candidates."""
        if self.flat.is_meta:  # as many are told in their place
            return {name: np.arange(max(1, round(self.density * len(part.index)))) for name, part in self.parts.items()}
        scores = {name: self._of(self.logits.detach(), name) for name in self.parts}
        if self._decided:
            return {name: (some > 0).nonzero()[:, 0].cpu().numpy() for name, some in scores.items()}
        chosen = ranked(self.parts, scores, self.density, every=True)
        return {name: np.searchsorted(part.index, chosen[name].index) for name, part in self.parts.items()}

    def _shift(self, density: float) -> None:
        """Shift all a alike, by bisection, until so many of the candidates are open in the mean."""
        weight = self._widths / numel(self.parts)
        sure = self.logits.detach() - _SURE
        low, high = -4 * _REACH, 4 * _REACH
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if float((sure + middle).sigmoid() @ weight) > density else (middle, high)
        self.logits.add_(low)

    def _of(self, units: Tensor, name: str) -> Tensor:
        first, last = self._spans[name]
        return units[first:last]

    def _by_unit(self, numbers: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each tensor's share of as many numbers as D has, a row for each unit."""
        for name in self.parts:
            piece = self.delta.pieces[name]
            yield name, numbers[piece.begin : piece.end].view(len(piece.part.index), -1)
