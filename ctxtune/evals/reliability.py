"""Which labels are taken for which, and whether a model is right as often as it is sure.

    confusion[g][a]   rows whose label is g and that were answered a
    ECE = sum over bins b of |b| / n * |hits of b - confidence of b|      (Guo et al. 2017)

A row's confidence is the largest of its shares; the bins are 15 of equal width, each with its upper edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BINS = 15


def confusion(gold: Sequence[int], answers: Sequence[int], labels: int) -> NDArray[np.int64]:
    """The counts (k, k): a row for each right label, a column for each answer."""
    table = np.zeros((labels, labels), np.int64)
    np.add.at(table, (list(gold), list(answers)), 1)
    return table


def calibration_error(confidence: Sequence[float], hits: Sequence[float]) -> float:
    """The expected calibration error of rows with these confidences and hits (1 or 0)."""
    sure, right = np.array(confidence, np.float64), np.array(hits, np.float64)
    place = np.digitize(sure, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    gaps = np.bincount(place, weights=right - sure, minlength=BINS)
    return float(np.abs(gaps).sum() / len(sure))
