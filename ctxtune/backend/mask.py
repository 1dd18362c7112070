"""A choice of single numbers in a model's tensors: rows, columns, blocks or entries of each, as an object of its own.

Axes are those of the tensor as it is stored: of a linear layer (N, K) a row is an output and a column an input, of GPT-2's
Conv1D (K, N) it is the other way round. Chosen numbers have an order, that of `Part.entries`; values are kept in it.

    rows      (n, K)     whole rows of a matrix, one after the other
    columns   (n, N)     whole columns, one after the other
    blocks    (n, b, b)  squares of side b, numbered from left to right and from top to bottom
    entries   (n,)       single numbers by their place in the flattened tensor
    whole     as stored  all of it

No torch: a mask is read and compared without a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Index = NDArray[np.int64]

Kind = Literal["rows", "columns", "blocks", "entries", "whole"]
SIDE = 32
"""of a block, at most"""
_MOST = 2**28  # numbers of a tensor whose places are written out: 2 GiB


@dataclass(frozen=True, eq=False)
class Part:
    """What is chosen of one tensor of shape `size`: `index`, sorted and without repetition, says which rows, columns, ..."""

    kind: Kind
    size: tuple[int, ...]
    index: Index

    @property
    def side(self) -> int:
        """Of a block."""
        return side_of(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the chosen numbers, in their order."""
        count = len(self.index)
        if self.kind == "whole":
            return self.size
        if self.kind == "rows":
            return (count, *self.size[1:])
        if self.kind == "columns":
            return count, self.size[0]
        return (count, self.side, self.side) if self.kind == "blocks" else (count,)

    @property
    def numel(self) -> int:
        """How many numbers are chosen."""
        return math.prod(self.shape)

    def corners(self) -> tuple[Index, Index]:
        """The first row and the first column of each block."""
        across = self.size[1] // self.side
        return self.index // across * self.side, self.index % across * self.side

    def entries(self) -> Index:
        """The place of each chosen number in the flattened tensor, in the order in which their values are kept."""
        if self.kind == "entries":
            return self.index
        if self.kind == "whole":
            return np.arange(math.prod(self.size))
        if self.kind == "rows":
            width = math.prod(self.size[1:])
            return (self.index[:, None] * width + np.arange(width)).reshape(-1)
        if self.kind == "columns":
            return (np.arange(self.size[0]) * self.size[1] + self.index[:, None]).reshape(-1)
        inside = np.arange(self.side)
        top, left = self.corners()
        rows, columns = top[:, None] + inside, left[:, None] + inside
        return (rows[:, :, None] * self.size[1] + columns[:, None, :]).reshape(-1)


Mask = dict[str, Part]
"""name of a parameter -> what is chosen of it"""


def side_of(size: tuple[int, ...]) -> int:
    """The side of a block: the largest power of two, at most 32, that divides both sides of a matrix."""
    return math.gcd(SIDE, *size)


def units(kind: Kind, size: tuple[int, ...]) -> int:
    """How many rows, columns, blocks or entries a tensor has to choose from."""
    if kind == "rows":
        return size[0]
    if kind == "columns":
        return size[1]
    if kind == "blocks":
        return math.prod(size) // side_of(size) ** 2
    return math.prod(size) if kind == "entries" else 1


def union(one: Mask, other: Mask) -> Mask:
    """What either chooses."""
    alone = {
        name: part for source in (one, other) for name, part in source.items() if name not in one or name not in other
    }
    whole = {name: part for source in (one, other) for name, part in source.items() if part.kind == "whole"}
    return {**alone, **_both(one, other, np.union1d), **whole}


def intersection(one: Mask, other: Mask) -> Mask:
    """What both choose."""
    return _both(one, other, np.intersect1d)


def difference(one: Mask, other: Mask) -> Mask:
    """What the first chooses and the second does not."""
    return {**{name: part for name, part in one.items() if name not in other}, **_both(one, other, np.setdiff1d)}


def _both(one: Mask, other: Mask, rule: Callable[[Index, Index], Index]) -> Mask:
    """The rule for each tensor of which both choose something; what is left of it, if anything is."""
    found: Mask = {}
    for name in one:
        if name not in other:
            continue
        a, b = one[name], other[name]
        if a.size != b.size:
            raise ValueError(f"{name} is {list(a.size)} in one mask and {list(b.size)} in the other")
        if a.kind == b.kind and a.kind != "whole":
            part = Part(a.kind, a.size, rule(a.index, b.index))
        elif (most := max(a.numel, b.numel)) > _MOST:
            raise ValueError(f"{name}: {a.kind} and {b.kind} are compared one by one, {most:,} numbers are too many")
        else:
            part = Part("entries", a.size, rule(np.sort(a.entries()), np.sort(b.entries())))
        if len(part.index):
            found[name] = part
    return found


def numel(mask: Mapping[str, Part]) -> int:
    """How many numbers a mask chooses."""
    return sum(part.numel for part in mask.values())
