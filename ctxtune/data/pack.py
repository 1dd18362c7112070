"""Short examples side by side in one row of tokens: where each of them begins.

Equal sums: the longest example first, each goes to the row that is emptiest (longest processing time first, Graham 1969).
Of n rows, n - 1, ... those are taken that cost least, n examples on their own being the first of them:

    cost = B T (1 + T / PAIRS)      B rows, T tokens of the fullest: padding is run too, and attention looks at all pairs
"""

from __future__ import annotations

import heapq
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# The length at which attention costs a token as much as the rest of its block: SmolLM2-135M forwards and backwards on a CPU,
# with a mask (tests/benchmarks/padding.py). Wider models have room for more.
PAIRS = 2048
# Numbers of rows that are tried at most.
_TRIES = 32

Place = tuple[int, int]  # the row that an example stands in, and the column of its first token


def alone(lengths: Sequence[int]) -> list[Place]:
    """Every example in its own row."""
    return [(row, 0) for row in range(len(lengths))]


def in_one_row(lengths: Sequence[int]) -> list[Place]:
    """All examples side by side in the same row."""
    return [(0, end - length) for length, end in zip(lengths, accumulate(lengths), strict=True)]


def packed(lengths: Sequence[int]) -> list[Place]:
    """The places of examples of these lengths, in their order; a matter of the lengths alone."""
    num, longest = len(lengths), max(lengths, default=0)
    order = sorted(range(num), key=lambda i: (-lengths[i], i))
    best, least = alone(lengths), _cost(num * longest, longest)
    for rows in range(num - 1, 0, -max(1, num // _TRIES)):
        places, width = _balanced(lengths, order, rows)
        if _cost(sum(lengths), width) >= least:
            break  # fewer rows are longer still: without any padding they would cost more
        if _cost(rows * width, width) < least:
            best, least = places, _cost(rows * width, width)
    return best


def _cost(tokens: int, width: int) -> float:
    return tokens * (1 + width / PAIRS)


def _balanced(lengths: Sequence[int], order: Sequence[int], rows: int) -> tuple[list[Place], int]:
    """The examples, longest first, over so many rows, and the tokens of the fullest row."""
    places = [(0, 0)] * len(lengths)
    filled = [(0, row) for row in range(rows)]  # a heap: the emptiest first
    for i in order:
        first, row = filled[0]
        places[i] = row, first
        heapq.heapreplace(filled, (first + lengths[i], row))
    return places, max(filled)[0]
