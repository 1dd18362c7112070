"""A teacher: its distribution over a row's choices pulls, by the Kullback-Leibler divergence; no label is read.

    L = sum over rows of sum over choices j of p_j (log p_j - log q_j),      q = softmax_j of ll_j

p is what the teacher said, once, before the training (Hinton et al. 2015, without a temperature); ll_j is the sum of the
log-probabilities of choice j's tokens, as in evals/choice.py. The choices of a row branch from it (data/branch.py), so that
each row is run once. The loop divides by the rows of the whole batch.

Shapes: N answer rows of a part, M tokens of all its choices, B examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from ctxtune.backend.feed import ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ctxtune.backend.feed import Feed
    from ctxtune.data.branch import Places


@dataclass(frozen=True)
class Teacher:
    """`answers[i]` are the choices of example i; `log_shares[i]` what the teacher said of each, log p in nats."""

    feed: Feed
    answers: Sequence[Sequence[Places]]
    log_shares: Sequence[Sequence[float]]

    def tokens(self, batch: Sequence[int]) -> int:
        """What the loss is summed over: rows, each with one distribution."""
        return len(batch)

    def parts(self, batch: Sequence[int], rows: int | None) -> list[list[int]]:
        """The batch in parts that fit one forward pass."""
        return self.feed.parts(batch, rows)

    def loss(self, part: Sequence[int]) -> Tensor:
        """The sum, in nats, over the rows of a part; a scalar that can be differentiated."""
        return self._divergences(part).sum()

    def losses(self, batch: Sequence[int]) -> list[float]:
        """The divergence of each example, in nats, without a gradient."""
        found: dict[int, float] = {}
        with torch.no_grad():
            for part in self.feed.parts(batch):
                found |= zip(part, self._divergences(part).tolist(), strict=True)
        return [found[i] for i in batch]

    def _divergences(self, part: Sequence[int]) -> Tensor:
        """KL(teacher || student) of each row (B,), in float64: near the teacher it is the difference of equal numbers."""
        choices = [choice for i in part for choice in self.answers[i]]
        tokens = torch.split(self._token_nats(part).double(), [len(labels) for _, labels in choices])
        each = torch.split(torch.stack([nats.sum() for nats in tokens]), [len(self.answers[i]) for i in part])
        found = []
        for i, lls in zip(part, each, strict=True):
            said = torch.tensor(self.log_shares[i], dtype=torch.float64, device=lls.device)
            found.append((said.exp() * (said - lls.log_softmax(0))).sum())
        return torch.stack(found)

    def _token_nats(self, part: Sequence[int]) -> Tensor:
        """log p of every token (M,), choice by choice. Of many rows the logits are made again in the backward pass."""
        hidden, asked, begin = self.feed.hidden(part), [], 0
        for i in part:
            asked += [
                (begin + at, label)
                for places, labels in self.answers[i]
                for at, label in zip(places, labels, strict=True)
            ]
            begin += len(self.feed.examples[i].rows)
        at, label = torch.tensor(asked, device=hidden.device).unbind(1)
        if len(hidden) <= ROWS:
            return self._nats(hidden, at, label)
        said, slots = [], []
        for first in range(0, len(hidden), ROWS):
            (here,) = ((at >= first) & (at < first + ROWS)).nonzero(as_tuple=True)
            chunk = hidden[first : first + ROWS]
            said.append(checkpoint(self._nats, chunk, at[here] - first, label[here], use_reentrant=False))
            slots.append(here)
        return torch.cat(said)[torch.cat(slots).argsort()]

    def _nats(self, hidden: Tensor, at: Tensor, label: Tensor) -> Tensor:
        logits = self.feed.trunk.logits(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits[at, label] - logits.logsumexp(-1)[at]
