"""Is one result better than another? Paired bootstrap and sign test over the rows that both have scored.

For rows i = 1 .. n with scores a_i and b_i, weights w_i and d_i = a_i - b_i:

    difference   sum w d / sum w
    interval     its 2.5 % and 97.5 % quantiles over 10,000 draws of n rows with replacement
                 (Efron and Tibshirani 1993, chapter 13; for tests of language systems: Koehn 2004)
    p            2 P(X <= min(rows with d > 0, rows with d < 0)), X ~ Binomial(rows with d != 0, 1/2), at most 1: the
                 two-sided sign test. Where scores are hits and misses it is the exact test of McNemar (1947).

Rows that both results got equally say nothing about the difference, but they say that it is small: they stay in the mean.
Equal is what lies within `ROUNDING`: float32 in another order of sums moves log p by some 1e-4, and of such gaps a sign test
would find a lot to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.errors import DataError
from ctxtune.evals.items import CHOSEN, CLASSIFIED, measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ctxtune.evals.items import Item

DRAWS = 10_000
ROUNDING = 1e-3  # of a row's score; hits and misses are 1 apart, log-probabilities are told to 1e-3
_CELLS = 1 << 22  # numbers in memory at once


@dataclass(frozen=True)
class Difference:
    """This result minus the other: the mean, its 95 % interval, and the sign test over the rows that differ.

    Where none differs by more than rounding, the mean is what rounding has left.
    """

    other: float
    difference: float
    low: float
    high: float
    p: float
    higher: int
    lower: int


def compare(ours: Sequence[Item], theirs: Sequence[Item], who: str, seed: int = 0) -> dict[str, Difference]:
    """The difference in every score that both results have, a finite number in every row, if it means the same in both.

    Raises:
        DataError: the two were not scored on the same rows, or have no score in common.
    """
    check_same_rows((item.row for item in ours), (item.row for item in theirs), who)
    same = check_same_measure(measure(ours[0].scores), measure(theirs[0].scores), who)
    pairs = list(zip(_in_order(ours), _in_order(theirs), strict=True))
    names = [
        name
        for name in ours[0].scores
        if (same or name != "loss")
        and all(math.isfinite(item.scores.get(name, math.nan)) for pair in pairs for item in pair)
    ]
    if not names:
        raise DataError(
            f"{who} has none of the scores {', '.join(ours[0].scores)}", "score both with the same choices or metric"
        )
    other = np.array([[their.scores[name] for name in names] for _, their in pairs])
    gaps = np.array([[our.scores[name] for name in names] for our, _ in pairs]) - other
    weights = np.array([our.weight for our, _ in pairs])
    means, others = (np.average(table, axis=0, weights=weights).tolist() for table in (gaps, other))
    low, high = np.quantile(resampled_means(gaps, weights, seed), [0.025, 0.975], axis=0)
    return {
        name: Difference(others[i], means[i], float(low[i]), float(high[i]), *_signs(gaps[:, i]))
        for i, name in enumerate(names)
    }


def check_same_rows(ours: Iterable[str], theirs: Iterable[str], who: str) -> None:
    """Refuse to compare results on different rows, which are told apart by their hashes.

    Raises:
        DataError: a row of one is not in the other.
    """
    left, right = sorted(ours), sorted(theirs)
    if left != right:
        raise DataError(
            f"{who} was scored on other rows: {len(right):,} rows against {len(left):,} here,"
            f" {len(set(left) & set(right)):,} in common",
            "score both on the same file",
        )


def check_same_measure(ours: str, theirs: str, who: str) -> bool:
    """Refuse to compare what is measured otherwise; returns whether `loss` means the same as well.

    Raises:
        DataError: one was scored with choices, say, and the other by what the model writes.
    """
    if ours != theirs and not {ours, theirs} <= {CHOSEN, CLASSIFIED}:
        raise DataError(
            f"{who} was scored {theirs}, and this result {ours}: their numbers mean other things",
            "score both with the same choices, or metric",
        )
    return ours == theirs


def resampled_means(gaps: NDArray[np.float64], weights: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The weighted means of the columns of `gaps` (n, m) over draws of n rows with replacement, (DRAWS, m)."""
    random = np.random.default_rng(seed)
    count = len(gaps)
    weighted = gaps * weights[:, None]
    means = np.empty((DRAWS, gaps.shape[1]))
    step = max(1, _CELLS // (count * gaps.shape[1]))
    for first in range(0, DRAWS, step):
        drawn = random.integers(count, size=(min(step, DRAWS - first), count))
        means[first : first + step] = weighted[drawn].sum(1) / weights[drawn].sum(1)[:, None]
    return means


def sign_test(higher: int, lower: int) -> float:
    """The two-sided p of so uneven a split, or a more uneven one, of higher + lower throws of a fair coin."""
    count = higher + lower
    whole = math.lgamma(count + 1) - count * math.log(2)
    tail = sum(math.exp(whole - math.lgamma(k + 1) - math.lgamma(count - k + 1)) for k in range(min(higher, lower) + 1))
    return min(1.0, 2 * tail)


def _signs(gaps: NDArray[np.float64]) -> tuple[float, int, int]:
    higher, lower = int((gaps > ROUNDING).sum()), int((gaps < -ROUNDING).sum())
    return sign_test(higher, lower), higher, lower


def _in_order(items: Sequence[Item]) -> list[Item]:
    """By hash; of equal rows the first stays first, so that it meets the other result's first."""
    return sorted(items, key=lambda item: item.row)
