"""Calibration: what a model prefers before it has read the question is taken out of what it says of the choices.

With log-likelihoods ll (n, k) of k choices in n rows, p(y|x) = softmax of a row's ll, and pi the shares of the labels:

    none         log p(y|x)
    contextual   log p(y|x) - log p0(y) + log pi(y)           p0 = mean of p(y|c) over content-free inputs c (Zhao 2021)
    domain       the same, c being random words of the rows (Fei 2023)
    batch        log p(y|x) - g [log q(y) - log pi(y)]        q = mean of p(y|x) over the rows (Zhou 2024)
    pmi          ll(y|x) - ll(y|premise) + log pi(y)          the choice behind nothing but a premise (Holtzman 2021)
    channel      log p(x|y) + log pi(y)                       the question behind the choice (Min 2022)

pi is even, unless it is given or estimated (shares.py). Batch takes q for the model's preference, which is right where the
labels of the rows have the shares pi: that is checked against what `domain` answers. g = n / (n + k): q is off by the chance
of the rows, which moves log q by about sqrt(k / n), against preferences of about one nat. Below `LEAST` rows a choice, g = 0.

Shapes: n rows, k choices, m content-free inputs. All are natural logarithms in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Table = NDArray[np.float64]

T = TypeVar("T")

CALIBRATIONS = ("none", "contextual", "domain", "batch", "pmi", "channel")
FREE = ("contextual", "domain")
"""the calibrations by content-free inputs"""
LEAST = 16  # rows a choice from which their mean says something of the model
SKEWED = 0.25  # of all labels that far from the shares that are taken for granted, and batch corrects what is right


@dataclass(frozen=True)
class Unasked:
    """What a model says before it is asked: log-likelihoods (m, k) behind content-free inputs, by the name of the calibration,
    and behind the premise, (k,) or (n, k) where the rows have choices of their own; `channel` (n, k) of the questions."""

    free: Mapping[str, Table] = field(default_factory=dict)
    premise: Table | None = None
    channel: Table | None = None


def log_shares(lls: Table) -> Table:
    """log p(y|x): log-likelihoods normalised over the choices."""
    shifted = lls - lls.max(-1, keepdims=True)
    total: Table = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return total


def log_mean(lls: Table) -> Table:
    """The logarithm of the mean over inputs of p(y|x), (k,)."""
    total: Table = np.logaddexp.reduce(log_shares(lls), axis=0) - np.log(len(lls))
    return total


def shrinkage(rows: int, choices: int) -> float:
    """How far the mean over so many rows is trusted, g."""
    return rows / (rows + choices) if rows >= LEAST * choices else 0.0


def calibrated(lls: Table, unasked: Unasked, prior: Table | None = None, *, shared: bool = True) -> dict[str, Table]:
    """The scores (n, k) of every calibration that there is something to take from, by name, `none` first.

    `shared`: all rows have the same choices, so that a mean over rows is one.
    """
    count = lls.shape[-1]
    said = log_shares(lls)
    lean = np.log(np.full(count, 1 / count) if prior is None else prior)
    scores = {"none": said}
    for name in FREE:
        if name in unasked.free:
            scores[name] = said - log_mean(unasked.free[name]) + lean
    if shared:
        scores["batch"] = said - shrinkage(len(lls), count) * (log_mean(lls) - lean)
    if unasked.premise is not None:
        scores["pmi"] = said - log_shares(unasked.premise) + lean
    if unasked.channel is not None:
        scores["channel"] = log_shares(unasked.channel) + lean
    return scores


def parted(scores: Mapping[str, T]) -> tuple[dict[str, T], dict[str, dict[str, T]]]:
    """Scores by name, and apart from them those of every calibration: {name: {acc, acc_stderr}}."""
    own = {f"acc_{name}{end}": (name, f"acc{end}") for name in CALIBRATIONS for end in ("", "_stderr")}
    calibrations: dict[str, dict[str, T]] = {}
    for key in (key for key in own if key in scores):
        name, score = own[key]
        calibrations.setdefault(name, {})[score] = scores[key]
    return {key: value for key, value in scores.items() if key not in own}, calibrations


def counted_shares(scores: Table) -> Table:
    """The shares of the labels among the answers, (k,), of scores (n, k).

    The likeliest shares (shares.py) go to the extremes where a model is more or less sure than it is right, or prefers another
    label behind real texts than behind random words. Counting what wins errs towards even shares.
    """
    shares: Table = np.bincount(scores.argmax(-1), minlength=scores.shape[-1]) / len(scores)
    return shares


def distance(shares: Any, others: Any) -> float:
    """How much of one distribution would have to move to make it the other: half the sum of the differences."""
    return float(np.abs(np.asarray(shares) - np.asarray(others)).sum() / 2)
