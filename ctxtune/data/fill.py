"""Documents in rows of at most T tokens: every token is predicted once, and none sees another document.

A document is cut into as few segments as it takes. Those that fill a row alone do so; the others share rows, best fit
decreasing: the longest first, each into the row with the least room that holds it (Ding et al. 2024, "Fewer Truncations
Improve Language Modeling"). With a list of open rows for each amount of room that takes a time in proportion to the segments.

    stream      E a b c d e E f g E          T = 4
    segments    (E a b c -> a b c d) (d e -> e E) (E f g -> f g E)

Shapes: B rows, T tokens of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctxtune.data.corpus import Part

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """`ids`, `labels` (IGNORED behind a row's end) and `positions` within each segment (B, T); `apart` is whether any row
    holds several segments."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]
    apart: bool


@dataclass(frozen=True)
class Rows:
    """Rows of a part: row r holds segments bounds[r] to bounds[r + 1], each so many tokens from a place in the stream."""

    tokens: NDArray[np.integer]
    first: NDArray[np.int64]
    length: NDArray[np.int32]
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The tokens that are predicted in each row."""
        return np.add.reduceat(self.length, self.bounds[:-1], dtype=np.int64)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Some rows as padded arrays."""
        inside = [range(self.bounds[row], self.bounds[row + 1]) for row in numbers]
        width = max(int(self.length[some.start : some.stop].sum()) for some in inside)
        shape = (len(numbers), width)
        ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
        positions = np.broadcast_to(np.arange(width), shape).copy()
        for row, some in enumerate(inside):
            at = 0
            for segment in some:
                first, length = int(self.first[segment]), int(self.length[segment])
                place = row, slice(at, at + length)
                ids[place] = self.tokens[first : first + length]
                labels[place] = self.tokens[first + 1 : first + length + 1]
                positions[place] = np.arange(length)
                at += length
            positions[row, at:] = np.arange(width - at)  # what fills up a row is a segment of its own
        return Batch(ids, labels, positions, any(len(some) > 1 for some in inside))


def fill(part: Part, most: int) -> Rows:
    """The rows of a part, of at most so many tokens."""
    first, length = _segments(part, most)
    row_of = np.empty(len(first), np.int64)
    whole = length == most
    row_of[whole] = np.arange(whole.sum())
    row_of[~whole] = _best_fit(length[~whole], most) + whole.sum()
    begins = np.isin(first, part.starts)
    order = np.lexsort((first, ~begins, row_of))  # a row starts with a document where it can
    bounds = np.searchsorted(row_of[order], np.arange(row_of.max() + 2)) if len(first) else np.zeros(1, np.int64)
    return Rows(part.tokens, first[order], length[order].astype(np.int32), bounds)


def _segments(part: Part, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each segment begins in the stream, and how many tokens it has."""
    ends = np.append(part.starts[1:], part.counts.tokens)
    sizes = ends - part.starts
    pieces = -(-sizes // most)
    of = np.repeat(np.arange(len(sizes)), pieces)
    number = np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = part.starts[of] + number * most
    return first, np.minimum(most, ends[of] - first)


def _best_fit(lengths: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The row of each segment, numbered from 0. `rooms` has a bit for each amount of room that some open row has."""
    rows = np.empty(len(lengths), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(most + 1)]
    rooms = count = 0
    for segment in np.argsort(-lengths, kind="stable"):
        length = int(lengths[segment])
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            row = open_rows[room].pop()
            rooms &= ~(1 << room) if not open_rows[room] else -1
        else:
            room, row = most, count
            count += 1
        rows[segment] = row
        if room > length:
            open_rows[room - length].append(row)
            rooms |= 1 << (room - length)
    return rows
