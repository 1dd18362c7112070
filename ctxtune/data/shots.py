"""Which rows of a pool are shown as demonstrations, and in which order.

For all questions alike:

fixed      the first of the pool, as they stand
random     drawn by lot
balanced   drawn by lot, one of each label in turn, the labels in the order in which they are listed

For each question by itself (Liu et al. 2022, KATE), from how near the rows are to it:

bm25       the nearest by the words they share (bm25.py)
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray


def choose(select: str, labels: Sequence[int], shots: int, seed: int) -> list[int]:
    """The places in the pool of so many demonstrations; `labels` are the pool's.

    Raises:
        DataError: the pool is smaller.
    """
    check_pool(len(labels), shots)
    order = list(range(len(labels)))
    if select == "fixed":
        return order[:shots]
    Random(f"shots {seed}").shuffle(order)
    return (order if select == "random" else _in_turn(order, labels))[:shots]


def check_pool(rows: int, shots: int) -> None:
    """Refuse to show more rows than there are."""
    if shots > rows:
        raise DataError(
            f"{shots} demonstrations are asked for, the training rows are {rows}",
            f"name more rows with --train, or --shots {rows}",
        )


def nearest(near: NDArray[np.floating], shots: int, without: Collection[int] = ()) -> list[int]:
    """The places of the nearest rows, the nearest first, of equally near ones the first; `near` (N,) says how near each is."""
    far = np.array(near, dtype=np.float64)
    far[list(without)] = -np.inf
    order = np.argsort(-far, kind="stable")[: len(far) - len(without)]
    return [int(place) for place in order[:shots]]


def _in_turn(order: Sequence[int], labels: Sequence[int]) -> list[int]:
    """One of each label in turn, as long as there are any."""
    by_label = {label: [place for place in order if labels[place] == label] for label in sorted(set(labels))}
    longest = max(map(len, by_label.values()), default=0)
    return [some[turn] for turn in range(longest) for some in by_label.values() if turn < len(some)]
