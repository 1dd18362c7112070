"""Examples from several files, each with a weight: weight w is w passes over the file in every epoch.

A file of n examples is an endless row of passes, each pass an order of all n drawn from the seed. Epoch e takes the next
c = max(1, round(w n)) of them, from place e c to (e + 1) c: half of a file in one epoch is the other half in the next, and
what an epoch takes depends on seed and epoch alone, so that a run that goes on takes what it would have taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Share:
    """A file's part in the mixture: its name, its weight, and how many of the examples are its own."""

    path: str
    weight: float
    size: int

    @property
    def drawn(self) -> int:
        """Examples in an epoch, those that stand there again counted again."""
        return max(1, round(self.weight * self.size)) if self.size else 0


@dataclass(frozen=True)
class Mixture:
    """The shares in the order of the examples: those of the first file come first."""

    shares: tuple[Share, ...]

    @property
    def per_epoch(self) -> int:
        """Examples in an epoch."""
        return sum(share.drawn for share in self.shares)

    def facts(self) -> dict[str, object]:
        """What a result says of several files; of one there is nothing to say."""
        if len(self.shares) < 2:
            return {}
        names = ("path", "weight", "rows", "rows_per_epoch")
        files = [(share.path, share.weight, share.size, share.drawn) for share in self.shares]
        return {"files": [dict(zip(names, file, strict=True)) for file in files]}

    def epoch(self, seed: int, epoch: int) -> list[int]:
        """The examples of an epoch by number, in order; with a weight of 1, each of them once."""
        found: list[int] = []
        first = 0
        for number, share in enumerate(self.shares):
            if share.size:
                found += sorted(first + place for place in _drawn(share, f"{seed} {number}", epoch))
            first += share.size
        return found


def _drawn(share: Share, seed: str, epoch: int) -> Iterator[int]:
    if share.drawn == share.size:
        return iter(range(share.size))
    return _from_passes(share.size, seed, epoch * share.drawn, (epoch + 1) * share.drawn)


def _from_passes(size: int, seed: str, start: int, stop: int) -> Iterator[int]:
    """The places from `start` to `stop` of one shuffled pass behind the other."""
    for number in range(start // size, (stop - 1) // size + 1):
        order = list(range(size))
        Random(f"pass {seed} {number}").shuffle(order)
        first = number * size
        yield from order[max(0, start - first) : stop - first]
