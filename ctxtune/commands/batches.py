"""The batches of a run, and which of its examples it will ever see: what a short run does not reach is not read either."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, islice
from typing import TYPE_CHECKING

from ctxtune.data.batch import length_buckets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.data.mixture import Beside, Mixture
    from ctxtune.recipe.schema import Train


@dataclass(frozen=True)
class Batches:
    """The way through the examples; `used` are the numbers of those that it comes by, `beside` is what is learned again."""

    lengths: Sequence[int]
    mixture: Mixture
    options: Train
    beside: Beside | None = None
    used: Sequence[int] = ()
    place: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, lengths: Sequence[int], mixture: Mixture, steps: int, options: Train, beside: Beside | None = None
    ) -> Batches:
        """The batches of so many steps over examples of these lengths.

        The trials of a rate that is not given yet draw from all of them, but for those of `beside`.
        """
        whole = cls(lengths, mixture, options, beside)
        own = len(lengths) if beside is None else beside.first
        seen: set[int] = set() if options.lr != "auto" else set(range(own))
        epoch = 0
        while steps > 0 and len(seen) < len(lengths):
            batches = whole._buckets(epoch)[:steps]
            seen.update(example for batch in batches for example in batch)
            steps, epoch = steps - len(batches), epoch + 1
        used = sorted(seen)
        return cls(lengths, mixture, options, beside, used, {example: place for place, example in enumerate(used)})

    @property
    def own(self) -> int:
        """How many of those that are used are not of `beside`; they come first."""
        return len(self.used) if self.beside is None else bisect_left(self.used, self.beside.first)

    def share(self, steps: int) -> float:
        """The share of the tokens that so many steps learn that is of `beside`."""
        if self.beside is None:
            return 0.0
        tokens, first = self.beside.tokens, self.beside.first
        every = (batch for epoch in count() for batch in self._buckets(epoch))
        learned = [example for batch in islice(every, steps) for example in batch]
        return sum(tokens[i] for i in learned if i >= first) / sum(tokens[i] for i in learned)

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of an epoch, of places among the examples used; one that the run does not reach may lack some."""
        return _placed(self, number)

    def _buckets(self, epoch: int) -> list[list[int]]:
        drawn = self.mixture.epoch(self.options.seed, epoch)
        batches = length_buckets(self.lengths, self.options.batch, self.options.seed, epoch, examples=drawn)
        return batches if self.beside is None else self.beside.joined(batches, self.options.seed, epoch)

    def __hash__(self) -> int:
        return id(self)


@lru_cache(maxsize=2)
def _placed(batches: Batches, epoch: int) -> list[list[int]]:
    place = batches.place
    return [[place[example] for example in batch if example in place] for batch in batches._buckets(epoch)]
