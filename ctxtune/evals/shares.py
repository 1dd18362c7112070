"""The shares of labels among rows that nobody has labelled, from what a model says of them.

    r_x(y) = pi(y) c(y|x) / s(y), normalised over y          pi = mean of r_x     (Saerens et al. 2002)
    c(y|x) = softmax(a log p(y|x) + b)                       a, b from rows whose labels are known

The likeliest shares are found by expectation maximisation, and are right as far as c is. A few-shot prompt is far from it: it
prefers some label, and is more or less sure than it is right. Its p leads to the extremes, and so does p over what it says
behind random words. So p is corrected first, by the temperature and the bias under which the labels of some training rows are
likeliest (Alexandari et al. 2020). Few rows do not tell these well: shares are the mean over draws of a and b, normal around
the best with the curvature of the loss (Laplace), and some rows are taken to be spread evenly (`_EVEN`). Where p says little,
both lead back to even shares.

Shapes: n rows to score, m rows whose labels are known, k labels; s (k,) are the shares among the m.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctxtune.evals.calibrate import log_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctxtune.evals.calibrate import Table

LEAST_KNOWN = 4  # rows of each label from which a bias says something
_PULL = 0.1  # towards a = 1 and b = 0: a standard deviation of about three
_EVEN = 0.1  # of the rows, as many again have even shares
_DRAWS = 20


def estimated_shares(lls: Table, known: Table, gold: NDArray[np.int64]) -> Table:
    """The shares of the labels, (k,), among rows of log-likelihoods (n, k), given those of rows (m, k) with labels (m,)."""
    best, curvature = fitted(known, gold)
    count = lls.shape[-1]
    among = (np.bincount(gold, minlength=count) + 1) / (len(gold) + count)
    # Of curvature L L', the covariance is that of L'^-1 times standard normal numbers.
    normal = np.random.default_rng(0).normal(size=(_DRAWS, count + 1))
    drawn = best + np.linalg.solve(np.linalg.cholesky(curvature).T, normal.T).T
    said = log_shares(lls)
    found = [likeliest_shares(log_shares(at[0] * said + at[1:] - np.log(among))) for at in drawn]
    shares: Table = np.mean(found, axis=0)
    return shares


def likeliest_shares(likelihood: Table, steps: int = 1000, tolerance: float = 1e-6) -> Table:
    """pi (k,), the largest of prod_x sum_y pi(y) p(x|y), with even rows beside; `likelihood` (n, k) is log p(x|y)."""
    rows, count = likelihood.shape
    ratio, shares = np.exp(likelihood), np.full(count, 1 / count)
    for _ in range(steps):
        joint = ratio * shares
        counted = (joint / joint.sum(-1, keepdims=True)).sum(0) + _EVEN * rows / count
        last, shares = shares, counted / counted.sum()
        if np.abs(shares - last).max() < tolerance:
            break
    return shares


def fitted(known: Table, gold: NDArray[np.int64], steps: int = 100) -> tuple[Table, Table]:
    """(a, b) as one row (1 + k,), and the curvature of the loss there, by Newton's method: the loss is convex.

    loss = - sum over rows of log c(gold|x) + pull / 2 [(a - 1)^2 + |b|^2]
    """
    said, count = log_shares(known), known.shape[-1]
    right, start = np.eye(count)[gold], np.eye(1, count + 1)[0]
    # How the k logits of a row move with a and with each of b, (m, k, 1 + k).
    moves = np.concatenate([said[:, :, None], np.broadcast_to(np.eye(count), (len(said), count, count))], 2)

    def loss(at: Table) -> float:
        return float(_PULL / 2 * np.sum((at - start) ** 2) - np.sum(right * log_shares(moves @ at)))

    at: Table = start
    for _ in range(steps):
        p = np.exp(log_shares(moves @ at))
        slope = np.einsum("mk,mki->i", p - right, moves) + _PULL * (at - start)
        mean = np.einsum("mk,mki->mi", p, moves)
        curvature = np.einsum("mk,mki,mkj->ij", p, moves, moves) - mean.T @ mean + _PULL * np.eye(count + 1)
        step = np.linalg.solve(curvature, slope)
        while loss(at - step) > loss(at) and np.abs(step).max() > 1e-9:
            step = step / 2
        at = at - step
        if np.abs(step).max() < 1e-9:
            break
    return at, curvature
