"""Which rows of a pool are shown as demonstrations, and in which order.

fixed      the first of the pool, as they stand
random     drawn by lot
balanced   drawn by lot, one of each label in turn, the labels in the order in which they are listed
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence


def choose(select: str, labels: Sequence[int], shots: int, seed: int) -> list[int]:
    """The places in the pool of so many demonstrations; `labels` are the pool's.

    Raises:
        DataError: the pool is smaller.
    """
    if shots > len(labels):
        raise DataError(
            f"{shots} demonstrations are asked for, the training rows are {len(labels)}",
            f"name more rows with --train, or --shots {len(labels)}",
        )
    order = list(range(len(labels)))
    if select == "fixed":
        return order[:shots]
    Random(f"shots {seed}").shuffle(order)
    return (order if select == "random" else _in_turn(order, labels))[:shots]


def _in_turn(order: Sequence[int], labels: Sequence[int]) -> list[int]:
    """One of each label in turn, as long as there are any."""
    by_label = {label: [place for place in order if labels[place] == label] for label in sorted(set(labels))}
    longest = max(map(len, by_label.values()), default=0)
    return [some[turn] for turn in range(longest) for some in by_label.values() if turn < len(some)]
