"""The evidence on depth: the probe against ridge regression in its primal form, the cost and the pruning by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctxtune.methods.depth import FOLDS, Probe, candidates, cost, first_sufficient, not_worse, probe_depths, rungs_below


@pytest.mark.parametrize(("num_layers", "least", "expected"), [
    (30, 1, [1, 2, 4, 8, 16]), (16, 1, [1, 2, 4, 8, 16]), (15, 1, [1, 2, 4, 8]), (4, 1, [1, 2, 4]), (1, 1, [1]),
    (100, 1, [1, 2, 4, 8, 16]), (30, 2, [2, 4, 8, 16]), (30, 3, [4, 8, 16]), (30, 20, [20]), (3, 3, [3]),
])  # fmt: skip
def test_candidates(num_layers: int, least: int, expected: list[int]) -> None:
    assert candidates(num_layers, least) == expected


def test_the_cost_of_three_passes() -> None:
    assert cost(4, 30, 3) == 26 + 36
    assert cost(30, 30, 1) == 90


def ridge(x: np.ndarray, labels: np.ndarray, count: int) -> float:
    """The same probe in the primal form: W = (X'X + D I)^-1 X'Y, intercept apart."""
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    fold, hits = np.arange(len(x)) % FOLDS, 0
    for number in range(FOLDS):
        out, rest = fold == number, fold != number
        wanted = np.eye(count)[labels[rest]]
        mean = wanted.mean(0)
        weights = np.linalg.solve(x[rest].T @ x[rest] + x.shape[1] * np.eye(x.shape[1]), x[rest].T @ (wanted - mean))
        hits += int(((x[out] @ weights + mean).argmax(1) == labels[out]).sum())
    return hits / len(x)


@pytest.mark.parametrize("shape", [(60, 100), (90, 7)])
def test_the_probe_is_ridge_regression(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, shape[0])
    depths = random.normal(size=(3, *shape))
    for depth, signal in enumerate((0.0, 0.4, 3.0)):
        depths[depth] += signal * random.normal(size=(3, shape[1]))[labels]
    found = probe_depths(torch.from_numpy(depths), [f"class {label}" for label in labels])
    assert [probe.accuracy for probe in found] == pytest.approx([ridge(x, labels, 3) for x in depths])
    assert found[0].accuracy < 0.6 < 0.9 < found[2].accuracy
    for probe in found:
        assert probe.stderr == pytest.approx((probe.accuracy * (1 - probe.accuracy) / len(labels)) ** 0.5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_rows_and_one_class(count: int) -> None:
    (probe,) = probe_depths(torch.ones(1, count, 4), ["same"] * count)
    assert 0.0 <= probe.accuracy <= 1.0


def test_the_first_depth_within_one_error_of_the_best() -> None:
    accuracies = (0.5, 0.79, 0.81, 0.85, 0.84)
    probes = [Probe(accuracy, 0.05) for accuracy in accuracies]
    assert first_sufficient(probes) == 2
    assert first_sufficient([Probe(accuracy, 0.0) for accuracy in accuracies]) == 3


def test_the_deepest_that_cannot_be_told_from_the_best() -> None:
    gaps = {1: (0.3, 0.1), 4: (0.0, 0.0), 8: (0.05, 0.06), 16: (0.2, 0.1)}
    assert not_worse(gaps) == 8
    assert not_worse({1: (0.0, 0.0), 16: (0.2, 0.1)}) == 1


def test_more_layers_start_at_lower_rates() -> None:
    assert [rungs_below(k) for k in (1, 2, 4, 8, 16)] == [0, 0, 1, 1, 2]
