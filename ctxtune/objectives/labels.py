"""Labels: the answer tokens of the examples pull, by cross-entropy.

    L = - sum over the answer rows of log softmax(z)[label]

The loop divides by the supervised tokens of the whole batch, so that a batch cut into parts gives the same gradient
(Hugging Face had it otherwise until transformers 4.46).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ctxtune.backend.feed import Feed


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
        scored = self.feed.score(part)
        return functional.cross_entropy(scored.logits.float(), scored.labels, reduction="sum")

    def losses(self, batch: Sequence[int]) -> list[float]:
        """The summed loss of each example, in nats, without a gradient."""
        place = {example: position for position, example in enumerate(batch)}
        sums = torch.zeros(len(batch), dtype=torch.float64)
        with torch.no_grad():
            for part in self.feed.parts(batch):
                scored = self.feed.score(part)
                nats = functional.cross_entropy(scored.logits.float(), scored.labels, reduction="none").cpu().double()
                sums.index_add_(0, torch.tensor([place[i] for i in scored.owner.tolist()]), nats)
        return sums.tolist()
