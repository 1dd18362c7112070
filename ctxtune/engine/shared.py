"""One objective over several processes: each takes a share of every batch, torch adds what they pull.

    g = (1 / K) sum over K processes of grad (K x the summed loss of its share) / supervised tokens of the whole batch

which is the gradient of one process that takes the whole batch: nothing depends on how the rows are shared out. The mean is
that of DistributedDataParallel, or of FSDP where numbers are shared out too (backend/sharding.py).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ctxtune.backend.ranks import Ranks
    from ctxtune.engine.loop import Objective

_SPARE = [0]


class _Pull(nn.Module):
    """What an objective says of some rows, beside the numbers that it pulls."""

    def __init__(self, objective: Objective, moving: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.objective, self.moving = objective, nn.ParameterList(moving)

    def forward(self, part: Sequence[int]) -> Tensor:
        return self.objective.loss(part)


class Shared:
    """The share that this process has of an objective. Its losses are `size` times as large: their mean counts."""

    def __init__(self, objective: Objective, moving: Sequence[nn.Parameter], ranks: Ranks) -> None:
        self._objective, self._moving, self._ranks = objective, list(moving), ranks
        self._pull: DistributedDataParallel | None = None
        if not ranks.sharded:
            self._pull = DistributedDataParallel(_Pull(objective, moving), gradient_as_bucket_view=True)
        self._last: Sequence[int] = ()

    def moves(self, moving: Sequence[nn.Parameter]) -> bool:
        """Whether it pulls these numbers and no others."""
        return list(map(id, moving)) == list(map(id, self._moving))

    def tokens(self, batch: Sequence[int]) -> int:
        """Supervised tokens of the whole batch."""
        return self._objective.tokens(batch)

    def parts(self, batch: Sequence[int], rows: int | None) -> list[list[int]]:
        """This process's parts."""
        parts = _as_many(self._objective, batch, rows, self._ranks)
        self._last = parts[-1]
        return parts

    def loss(self, part: Sequence[int]) -> Tensor:
        """`size` times the summed loss of a part; an empty one costs nothing. What it pulls is added up at the last part."""
        if self._pull is None:
            loss = self._objective.loss(part or _SPARE)
        else:
            with nullcontext() if part is self._last else self._pull.no_sync():
                loss = self._pull(part or _SPARE)
        return loss * (self._ranks.size if part else 0)

    def losses(self, batch: Sequence[int]) -> list[float]:
        """The summed loss of each row, nats."""
        return shared_losses(self._objective, batch, self._ranks)


def shared(
    objective: Objective, moving: Sequence[nn.Parameter], ranks: Ranks, earlier: Objective | None = None
) -> Objective:
    """The objective over all processes, `earlier` if that pulls the same numbers."""
    if ranks.size == 1:
        return objective
    if isinstance(earlier, Shared) and earlier.moves(moving):
        return earlier
    return Shared(objective, moving, ranks)


def shared_losses(objective: Objective, batch: Sequence[int], ranks: Ranks) -> list[float]:
    """The summed loss of each row, nats; each process reads a share of them, all know all."""
    if ranks.size == 1:
        return objective.losses(batch)
    found: dict[int, float] = {}
    for part in _as_many(objective, batch, None, ranks):
        nats = objective.losses(part or _SPARE)
        found |= zip(part, nats if part else (), strict=True)
    return ranks.summed([found.get(row, 0.0) for row in batch])


def _as_many(objective: Objective, batch: Sequence[int], rows: int | None, ranks: Ranks) -> list[list[int]]:
    """This process's parts of a batch. All have as many, so that they meet as often: one with fewer has empty ones in front."""
    everyone = [objective.parts(ranks.share(batch, rank), rows) for rank in range(ranks.size)]
    own, most = everyone[ranks.rank], max(map(len, everyone))
    return [*([] for _ in range(most - len(own))), *own]
