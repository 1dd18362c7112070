"""Which rows of a pool are shown as demonstrations, and in which order.

For all questions alike:

fixed      the first of the pool, as they stand
random     drawn by lot
balanced   drawn by lot, one of each label in turn, the labels in the order in which they are listed
influence  one after another, each that which helps most on rows that are held out

For each question by itself (Liu et al. 2022, KATE), from how near the rows are to it:

bm25       the nearest by the words they share (bm25.py)
knn        the nearest by what the model makes of them: the cosine of centred features
mmr        one after another, near the question and unlike those before (Carbonell and Goldstein 1998)
cluster    the nearest to all questions of a cluster (clusters.py), which share what is read before them

Shapes: N rows of the pool, D numbers of a feature.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

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


def in_shares(labels: Sequence[int], seed: int) -> list[int]:
    """All places by lot, so that whatever beginning is taken has the labels in about the shares that they have in all."""
    order = list(range(len(labels)))
    Random(f"shares {seed}").shuffle(order)
    counts, seen, share = Counter(labels), Counter[int](), {}
    for place in order:
        label = labels[place]
        share[place] = (seen[label] + 0.5) / counts[label]
        seen[label] += 1
    return sorted(order, key=lambda place: share[place])


def check_pool(rows: int, shots: int, beside: str = "", least: int = 0) -> None:
    """Refuse to show more rows than there are; fewer than `least` cannot be asked for."""
    if shots > rows:
        raise DataError(
            f"{shots} demonstrations are asked for, the training rows are {rows}{beside}",
            f"name more rows with --train{f', or --shots {rows}' if rows >= least else ''}",
        )


def nearest(near: NDArray[np.floating], shots: int, without: Collection[int] = ()) -> list[int]:
    """The places of the nearest rows, the nearest first, of equally near ones the first; `near` (N,) says how near each is."""
    far = np.array(near, dtype=np.float64)
    far[list(without)] = -np.inf
    order = np.argsort(-far, kind="stable")[: len(far) - len(without)]
    return [int(place) for place in order[:shots]]


def unlike(
    near: NDArray[np.floating], features: NDArray[np.float32], shots: int, weight: float, without: Collection[int] = ()
) -> list[int]:
    """The places of rows by maximal marginal relevance; `features` (N, D) are of length 1.

    next = argmax over rows d of  weight near_d - (1 - weight) max over rows s chosen before of d . s
    """
    score = weight * np.asarray(near, dtype=np.float64)
    score[list(without)] = -np.inf
    like = np.full(len(score), -np.inf)
    chosen: list[int] = []
    for _ in range(min(shots, len(score) - len(without))):
        chosen.append(int(np.argmax(score - (1 - weight) * like if chosen else score)))
        score[chosen[-1]] = -np.inf
        like = np.maximum(like, features @ features[chosen[-1]])
    return chosen


def grow_by(losses: Callable[[list[list[int]]], list[float]], size: int, shots: int, most: int) -> list[int]:
    """The places of demonstrations, each of the least loss behind those before; `losses` tells it of several sets at once.

    Of all `size`, only the `most` that are best alone are tried behind others.
    """
    alone = losses([[place] for place in range(size)]) if shots else []
    left = sorted(range(size), key=lambda place: alone[place])[:most] if shots else []
    chosen = left[:1]
    while len(chosen) < shots:
        left.remove(chosen[-1])
        behind = losses([[*chosen, place] for place in left])
        chosen.append(left[behind.index(min(behind))])
    return chosen


def permutations_of(size: int, most: int, seed: int) -> list[tuple[int, ...]]:
    """The orders of so many things, the given one first; where there are more than `most`, so many drawn by lot."""
    first = tuple(range(size))
    if math.perm(size) <= most:
        return list(permutations(first))
    chance, found = Random(f"orders {seed}"), {first: None}
    while len(found) < most:
        found[tuple(chance.sample(first, size))] = None
    return list(found)


def entropy(answers: Sequence[int]) -> float:
    """Of how often each is given, in nats: the largest where all are given equally often."""
    shares = [count / len(answers) for count in Counter(answers).values()]
    return -sum(share * math.log(share) for share in shares)


def directions(features: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (N, D) seen from the centre (D,), at length 1."""
    seen = features - centre
    lengths = np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    found: NDArray[np.float32] = seen / lengths
    return found


def _in_turn(order: Sequence[int], labels: Sequence[int]) -> list[int]:
    """One of each label in turn, as long as there are any."""
    by_label = {label: [place for place in order if labels[place] == label] for label in sorted(set(labels))}
    longest = max(map(len, by_label.values()), default=0)
    return [some[turn] for turn in range(longest) for some in by_label.values() if turn < len(some)]
