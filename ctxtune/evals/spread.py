"""How much of a score is luck: its mean, its worst and its standard deviation over runs that differ by chance alone.

For scores s_1 .. s_n:   deviation^2 = sum (s_i - mean)^2 / (n - 1),   the error of the mean is deviation / sqrt(n).
It says how the mean would move with other draws; the error of one score over its rows says how it would move with other rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ctxtune.evals.items import mean_and_error

if TYPE_CHECKING:
    from collections.abc import Sequence


def spread(scores: Sequence[float], errors: Sequence[float]) -> dict[str, float]:
    """Of a score over draws, the larger the better; `errors` are its standard errors over the rows of each draw."""
    mean, error = mean_and_error(scores)
    worst = min(range(len(scores)), key=lambda i: scores[i])
    return {
        "mean": mean,
        "mean_stderr": error,
        "worst": scores[worst],
        "worst_stderr": errors[worst],
        "deviation": error * math.sqrt(len(scores)),
    }
