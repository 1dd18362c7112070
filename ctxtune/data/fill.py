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
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ctxtune.data.corpus import Part

IGNORED = -100
_TOGETHER = 1 << 20  # documents whose ends share rows: of more, memory and lists are those of so many


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
    first: NDArray[np.integer]
    length: NDArray[np.int32]
    bounds: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> NDArray[np.int32]:
        """The tokens that are predicted in each row."""
        return np.add.reduceat(self.length, self.bounds[:-1], dtype=np.int32)

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
    """The rows of a part, of at most so many tokens: first those that a segment fills alone, then those that are shared."""
    spans = [slice(at, at + _TOGETHER) for at in range(0, part.counts.documents, _TOGETHER)]
    whole = sum(int((_sizes(part, some) // most).sum()) for some in spans)
    shared = sum(int((_sizes(part, some) % most > 0).sum()) for some in spans)
    kind: type[np.int32 | np.int64] = np.int32 if part.counts.tokens < 1 << 31 else np.int64
    first, length = np.empty(whole + shared, kind), np.full(whole + shared, most, np.int32)
    at, bounds = 0, [np.arange(whole).astype(kind)]
    for some in spans:
        for places in _alone(part.starts[some], _sizes(part, some) // most, most):
            first[at : at + len(places)] = places
            at += len(places)
    for some in spans:
        places, lengths, rows = _sharing(part.starts[some], _sizes(part, some), most)
        behind = at + len(places)
        first[at:behind], length[at:behind] = places, lengths
        bounds.append((at + rows).astype(kind))
        at = behind
    return Rows(part.tokens, first, length, np.concatenate([*bounds, np.array([at]).astype(kind)]))


def _sizes(part: Part, some: slice) -> NDArray[np.int64]:
    """The tokens that some documents predict."""
    ends = part.starts[some.start + 1 : some.stop + 1]
    if some.stop >= part.counts.documents:
        ends = np.append(ends, part.counts.tokens)
    return ends - part.starts[some]


def _alone(starts: NDArray[np.int64], counts: NDArray[np.int64], most: int) -> Iterator[NDArray[np.int64]]:
    """Where the segments of `most` tokens begin, of which each document has so many; some of them at a time."""
    before = np.append(0, np.cumsum(counts))
    for number in range(0, int(before[-1]), _TOGETHER):
        numbers = np.arange(number, min(number + _TOGETHER, int(before[-1])))
        of = np.searchsorted(before, numbers, "right") - 1
        yield starts[of] + (numbers - before[of]) * most


def _sharing(
    starts: NDArray[np.int64], sizes: NDArray[np.int64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The other segments in the order of their rows: where they begin, their tokens, and the first of each row."""
    over = sizes % most
    there = over > 0
    first, length, begins = (starts + sizes - over)[there], over[there], (over == sizes)[there]
    row_of = _best_fit(length, most)
    order = np.lexsort((first, ~begins, row_of))  # a row starts with a document where it can
    rows = np.searchsorted(row_of[order], np.arange(row_of.max(initial=-1) + 1))
    return first[order], length[order], rows


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
