"""Examples from several files, each with a weight: weight w is w passes over the file in every epoch.

A file of n examples is an endless row of passes, each pass an order of all n drawn from the seed. Epoch e takes the next
c = max(1, round(w n)) of them, from place e c to (e + 1) c: half of a file in one epoch is the other half in the next, and
what an epoch takes depends on seed and epoch alone, so that a run that goes on takes what it would have taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, islice
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


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


@dataclass(frozen=True)
class Beside:
    """Other text that is learned again: behind the batch of each step as many of its examples as make `share` of all tokens.

    Of t tokens in an epoch's batches so far, t share / (1 - share) are to come from it. Another example is taken as long as
    that brings the sum nearer, so that after every step it is off by half an example at most. Passes over the text, each in an
    order of its own, follow each other from epoch to epoch.

    `tokens` are those that each example predicts; those from number `first` on are of the other text.
    """

    share: float
    first: int
    tokens: Sequence[int]

    def joined(self, batches: Sequence[list[int]], seed: int, epoch: int) -> list[list[int]]:
        """The batches of an epoch with what is learned beside each."""
        ratio, size = self.share / (1 - self.share), len(self.tokens) - self.first
        own = sum(self.tokens[i] for batch in batches for i in batch)
        taken = round(ratio * own * size / sum(self.tokens[self.first :]))
        order = _endless(size, f"{seed} replay", epoch * taken)
        found, due, following = list[list[int]](), 0.0, self.first + next(order)
        for batch in batches:
            due += ratio * sum(self.tokens[i] for i in batch)
            more = list[int]()
            while due >= self.tokens[following] / 2:
                due -= self.tokens[following]
                more.append(following)
                following = self.first + next(order)
            found.append(batch + more)
        return found


def _drawn(share: Share, seed: str, epoch: int) -> Iterator[int]:
    if share.drawn == share.size:
        return iter(range(share.size))
    return islice(_endless(share.size, seed, epoch * share.drawn), share.drawn)


def _endless(size: int, seed: str, start: int) -> Iterator[int]:
    """The places from `start` on of one shuffled pass behind the other."""
    for number in count(start // size):
        order = list(range(size))
        Random(f"pass {seed} {number}").shuffle(order)
        yield from order[max(0, start - number * size) :]
