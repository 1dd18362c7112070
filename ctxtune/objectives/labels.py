"""Labels: the answer tokens of the examples pull, by cross-entropy.

    L = - sum over the answer rows of log softmax(z)[label]

The loop divides by the supervised tokens of the whole batch, so that a batch cut into parts gives the same gradient
(Hugging Face had it otherwise until transformers 4.46).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ctxtune.backend.feed import ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ctxtune.backend.feed import Feed


class _AtOnce(torch.autograd.Function):
    """The summed loss of final states (N, D) behind a head that stays as it is: what it pulls of them is known when it is, some
    rows at a time, so that no logits are kept and none made again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, nats: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        pull, total = torch.empty_like(hidden), torch.zeros((), device=hidden.device)
        for first in range(0, len(hidden), ROWS):
            with torch.enable_grad():
                some = hidden[first : first + ROWS].detach().requires_grad_()
                loss = nats(some, labels[first : first + ROWS])
            (pull[first : first + ROWS],) = torch.autograd.grad(loss, some)
            total += loss.detach()
        ctx.save_for_backward(pull)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (pull,) = ctx.saved_tensors
        return pull * grads[0], None, None


@dataclass(frozen=True)
class Labels:
    """Cross-entropy on the answer rows of a feed's examples."""

    feed: Feed

    def tokens(self, batch: Sequence[int]) -> int:
        """Supervised tokens of a batch of examples."""
        return sum(len(self.feed.examples[i].rows) for i in batch)

    def parts(self, batch: Sequence[int], rows: int | None) -> list[list[int]]:
        """The batch in parts that fit one forward pass."""
        return self.feed.parts(batch, rows)

    def loss(self, part: Sequence[int]) -> Tensor:
        """The sum, in nats, over the answer rows of a part; a scalar that can be differentiated."""
        hidden, labels = self.feed.hidden(part), self.feed.labels(part)
        if len(hidden) <= ROWS:
            return self._nats(hidden, labels)
        if not self.feed.trunk.logits(hidden[:1].detach()).requires_grad:
            return _AtOnce.apply(hidden, labels, self._nats)  # type: ignore[no-any-return,no-untyped-call]
        # One long text can have more rows x vocabulary than memory: its logits are made again in the backward pass.
        return torch.stack(
            [
                checkpoint(self._nats, hidden[first : first + ROWS], labels[first : first + ROWS], use_reentrant=False)
                for first in range(0, len(hidden), ROWS)
            ]
        ).sum()

    def losses(self, batch: Sequence[int]) -> list[float]:
        """The summed loss of each example, in nats, without a gradient."""
        sums = torch.zeros(len(self.feed.examples), dtype=torch.float64)
        with torch.no_grad():
            for part in self.feed.parts(batch):
                labels = self.feed.labels(part)
                owner = torch.tensor([i for i in part for _ in self.feed.examples[i].labels])
                for logits, rows in self.feed.logits_in_chunks(part):
                    nats = functional.cross_entropy(logits, labels[rows], reduction="none")
                    sums.index_add_(0, owner[rows], nats.double().cpu())
        return sums[list(batch)].tolist()

    def _nats(self, hidden: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.feed.trunk.logits(hidden).float(), labels, reduction="sum")
