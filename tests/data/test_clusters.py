"""k-means on points of which the clusters are known."""

from __future__ import annotations

import numpy as np
import pytest

from ctxtune.data.clusters import clusters_of


def heaps(count: int, each: int) -> np.ndarray:
    """Points in heaps far apart, heap after heap."""
    chance = np.random.default_rng(0)
    middles = np.eye(count, 16, dtype=np.float32) * 10
    return (middles.repeat(each, 0) + chance.normal(0, 0.1, (count * each, 16))).astype(np.float32)


@pytest.mark.parametrize("seed", range(10))
def test_heaps_are_found(seed: int) -> None:
    found = clusters_of(heaps(5, 7), 5, seed).reshape(5, 7)
    assert all(len(set(heap)) == 1 for heap in found)
    assert sorted(found[:, 0]) == list(range(5))


def test_no_point_lies_nearer_to_another_mean() -> None:
    points = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    found = clusters_of(points, 8, 3)
    means = np.stack([points[found == one].mean(0) for one in range(found.max() + 1)])
    far = np.linalg.norm(points[:, None] - means, axis=2)
    assert np.array_equal(far.argmin(1), found)
    assert np.array_equal(clusters_of(points, 8, 3), found)


@pytest.mark.parametrize(
    ("points", "most", "expected"), [(np.zeros((6, 3)), 4, 1), (np.eye(3), 8, 3), (np.eye(1), 1, 1)]
)
def test_equal_points_are_one_cluster(points: np.ndarray, most: int, expected: int) -> None:
    found = clusters_of(points.astype(np.float32), most, 0)
    assert sorted(set(found)) == list(range(expected))
