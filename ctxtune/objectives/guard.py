"""A guard: while something else pulls, KL(base || tuned) on a general text is held below a budget.

    min L  subject to  KL <= budget:     each step follows the gradient of L + w KL, and then
    w <- max(0, w + RATE e + HASTE (e - e of the step before))      e = min(1, KL / aim - 1)

Dual ascent (Boyd et al. 2011, section 2.1) alone lets the KL rise far above the budget before w has grown, and far below before
it has shrunk; the second term damps that (Stooke et al. 2020, "Responsive Safety in Reinforcement Learning by PID Lagrangian
Methods"). Relative to the aim, so that a budget in other units asks for the same w. As the KL can be below the aim by no more
than all of it, so it counts as above by no more: at a rate at which nothing holds the budget, w would drown the objective.

Of what the base says at a place its 64 likeliest tokens have a bucket each, and all others one together (the tail): no second
model is in memory. Buckets hide what moves inside the tail, so that by the log sum inequality

    sum over buckets b of p_b (log p_b - log q_b)  <=  KL(base || tuned)

is a lower bound: what is reported is the full KL (evals/forgetting.py), and the guard aims at a share of the budget.

Shapes: N answer rows, k buckets without the tail, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from ctxtune.backend.feed import ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ctxtune.backend.feed import Feed
    from ctxtune.backend.trunk import Trunk

BUCKETS = 64
RATE, HASTE = 0.5, 2.0
AIM = 0.8  # of the budget: buckets hide a part of the KL, and another text has another one


@dataclass(frozen=True)
class Buckets:
    """What the base said at N places: its likeliest tokens (N, k), and log p of each and of the tail (N, k + 1), in nats."""

    tokens: Tensor
    nats: Tensor


def in_buckets(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p of tokens (N, k), and in a last column of all others together: (N, k + 1) of logits (N, V)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nats = logits.gather(1, tokens) - logits.logsumexp(-1, keepdim=True)
    # Where the tokens have all of the probability, rounding leaves the tail as much as a number of the type can tell.
    most = nats.logsumexp(-1, keepdim=True).clamp(max=-torch.finfo(nats.dtype).eps)
    return torch.cat([nats, torch.log(-torch.expm1(most))], dim=1)


def read_buckets(trunk: Trunk, hidden: Tensor) -> Buckets:
    """What the head, which nothing has moved yet, makes of final states (N, D)."""
    tokens, nats = [], []
    with torch.no_grad():
        for first in range(0, len(hidden), ROWS):
            logits = trunk.logits(hidden[first : first + ROWS])
            tokens.append(logits.topk(min(BUCKETS, logits.shape[1] - 1)).indices)
            nats.append(in_buckets(logits, tokens[-1]))
    return Buckets(torch.cat(tokens), torch.cat(nats))


@dataclass(frozen=True)
class Guard:
    """`rows` examples of `feed` a step, one after another, are compared with what the base said of them."""

    feed: Feed
    base: Buckets
    budget: float
    rows: int

    @property
    def aim(self) -> float:
        """What the lower bound is held at."""
        return AIM * self.budget

    def pull(self, step: int, weight: float) -> float:
        """Add the gradient of weight x KL on the rows of a step to what is there; returns KL, the lower bound, nats a token."""
        count = len(self.feed.examples)
        batch = [(step * self.rows + i) % count for i in range(self.rows)]
        tokens = sum(len(self.feed.examples[i].rows) for i in batch)
        total = 0.0
        for part in self.feed.parts(batch):
            kl = self._nats(part) / tokens  # also of no weight as if it were learned from: gates are drawn for that
            if weight > 0:
                (weight * kl).backward()  # type: ignore[no-untyped-call]
            total += kl.item()
        return total

    def ascend(self, weight: float, kl: float, before: float) -> float:
        """The weight of the next step, of that of this one, its KL and that of the step before."""
        now, then = (min(1.0, one / self.aim - 1) for one in (kl, before))
        return max(0.0, weight + RATE * now + HASTE * (now - then))

    def _nats(self, part: Sequence[int]) -> Tensor:
        """The sum over the answer rows of a part."""
        hidden, place = self.feed.hidden(part), self._places(part)
        nats = self.base.nats[place]
        return (nats.exp() * (nats - in_buckets(self.feed.trunk.logits(hidden), self.base.tokens[place]))).sum()

    def _places(self, part: Sequence[int]) -> Tensor:
        """Where the answer rows of a part stand among all."""
        sizes = [len(one.rows) for one in self.feed.examples]
        first = [0, *accumulate(sizes)]
        return torch.tensor([first[i] + j for i in part for j in range(sizes[i])], device=self.base.nats.device)
