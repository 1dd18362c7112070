"""The order of rows in an epoch, from a seed: of millions of rows a batch is made when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Shuffled(Sequence[list[int]]):
    """All rows once, in batches; only the generator's bits are used, which all versions of numpy draw alike."""

    def __init__(self, rows: int, batch: int, seed: int, epoch: int) -> None:
        bits = np.random.PCG64([seed, epoch]).random_raw(rows)
        self._order: NDArray[np.uint32] = np.argsort(bits, kind="stable").astype(np.uint32)
        self._batch = batch

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch)

    @overload
    def __getitem__(self, place: int) -> list[int]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[int]]: ...
    def __getitem__(self, place: int | slice) -> list[int] | list[list[int]]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        found: list[int] = self._order[place * self._batch : (place + 1) * self._batch].tolist()
        return found


class Order:
    """The batches of every epoch; those of the one that is going on are kept."""

    def __init__(self, rows: int, batch: int, seed: int) -> None:
        self._epoch = lru_cache(maxsize=2)(lambda epoch: Shuffled(rows, batch, seed, epoch))

    def epoch(self, number: int) -> Shuffled:
        """The batches of one epoch."""
        return self._epoch(number)
