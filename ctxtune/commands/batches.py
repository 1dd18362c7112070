"""The batches of a run, and which of its examples it will ever see: what a short run does not reach is not read either."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from ctxtune.data.batch import length_buckets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.data.mixture import Mixture
    from ctxtune.recipe.schema import Train


@dataclass(frozen=True)
class Batches:
    """The way through the examples; `used` are the numbers of those that it comes by."""

    lengths: Sequence[int]
    mixture: Mixture
    options: Train
    used: Sequence[int] = ()
    place: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, lengths: Sequence[int], mixture: Mixture, steps: int, options: Train) -> Batches:
        """The batches of so many steps over examples of these lengths.

        The trials of a rate that is not given yet draw from all of them.
        """
        whole = cls(lengths, mixture, options)
        seen: set[int] = set() if options.lr != "auto" else set(range(len(lengths)))
        epoch = 0
        while steps > 0 and len(seen) < len(lengths):
            batches = whole._buckets(epoch)[:steps]
            seen.update(example for batch in batches for example in batch)
            steps, epoch = steps - len(batches), epoch + 1
        used = sorted(seen)
        return cls(lengths, mixture, options, used, {example: place for place, example in enumerate(used)})

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of an epoch, of places among the examples used; one that the run does not reach may lack some."""
        return _placed(self, number)

    def _buckets(self, epoch: int) -> list[list[int]]:
        drawn = self.mixture.epoch(self.options.seed, epoch)
        return length_buckets(self.lengths, self.options.batch, self.options.seed, epoch, examples=drawn)

    def __hash__(self) -> int:
        return id(self)


@lru_cache(maxsize=2)
def _placed(batches: Batches, epoch: int) -> list[list[int]]:
    place = batches.place
    return [[place[example] for example in batch if example in place] for batch in batches._buckets(epoch)]
