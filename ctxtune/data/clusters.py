"""Like questions together: k-means (Lloyd 1982) from seeds that lie apart (k-means++, Arthur and Vassilvitskii 2007).

Shapes: Q points, D numbers each, C clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDS = 100


def clusters_of(points: NDArray[np.float32], most: int, seed: int) -> NDArray[np.intp]:
    """The cluster of every point (Q,), of at most so many; fewer where points are equal."""
    centres = _apart(points, most, np.random.default_rng(seed))
    found = _nearest(points, centres)
    for _ in range(_ROUNDS):
        centres = np.stack([points[found == one].mean(0) for one in np.unique(found)])
        before, found = found, _nearest(points, centres)
        if np.array_equal(before, found):
            break
    return np.unique(found, return_inverse=True)[1]


def _apart(points: NDArray[np.float32], most: int, chance: np.random.Generator) -> NDArray[np.float32]:
    """Points as first centres (C, D), each drawn by the square of how far it lies from those before."""
    chosen = [int(chance.integers(len(points)))]
    far = np.square(points - points[chosen[0]]).sum(1, dtype=np.float64)
    while len(chosen) < most and far.any():
        chosen.append(int(chance.choice(len(points), p=far / far.sum())))
        far = np.minimum(far, np.square(points - points[chosen[-1]]).sum(1, dtype=np.float64))
    return points[chosen]


def _nearest(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.intp]:
    """Which centre lies nearest to each point (Q,): |p - c|^2 without the |p|^2 that all of them share."""
    found: NDArray[np.intp] = (np.square(centres).sum(1) - 2 * points @ centres.T).argmin(1)
    return found
