"""The shares of labels among rows: those that the rows were drawn with, and the correction against an optimiser by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctxtune.evals.calibrate import distance, log_shares
from ctxtune.evals.shares import estimated_shares, fitted, likeliest_shares

BIAS = np.log([0.75, 0.25])


def rows(true: list[float], count: int, seed: int, sure: float) -> tuple[np.ndarray, np.ndarray]:
    """Two normal densities, as seen by a model that prefers the first label and is too sure, or not sure enough."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < true[1]).astype(np.int64)
    x = random.normal(labels * 2.0, 1.0)
    likelihood = np.stack([-(x**2) / 2, -((x - 2.0) ** 2) / 2], 1)
    return sure * likelihood + BIAS - 7.0, labels


@pytest.mark.parametrize("sure", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("true", [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
def test_the_estimate_finds_the_shares_that_rows_were_drawn_with(true: list[float], sure: float) -> None:
    known, gold = rows([0.6, 0.4], 2000, 1, sure)
    lls, _ = rows(true, 4000, 0, sure)
    found = estimated_shares(lls, known, gold)
    assert found.sum() == pytest.approx(1.0)
    assert distance(found, true) < 0.09
    assert distance(found, [0.5, 0.5]) < distance(true, [0.5, 0.5]) + 0.02  # rather too even than too far


def test_few_rows_that_say_little_leave_shares_even() -> None:
    random = np.random.default_rng(0)
    known, lls, gold = random.normal(size=(16, 4)), random.normal(size=(100, 4)), np.arange(16) % 4
    assert distance(estimated_shares(lls, known, gold), [0.25] * 4) < 0.15


def test_the_likeliest_shares_are() -> None:
    """A tenth of the rows spread evenly, the likelihood is lower a step to either side."""
    lls, _ = rows([0.7, 0.3], 100, 0, 1.0)
    likelihood = log_shares(lls - BIAS)
    found = likeliest_shares(likelihood, tolerance=1e-12)
    at = [
        np.log(np.exp(likelihood) @ [a, 1 - a]).sum() + 5 * np.log(a) + 5 * np.log(1 - a)
        for a in (found[0] - 0.001, found[0], found[0] + 0.001)
    ]
    assert at[1] == max(at)


@pytest.mark.parametrize("size", [6, 40])
def test_the_correction_is_that_of_a_general_optimiser(size: int) -> None:
    random = np.random.default_rng(size)
    known, gold = random.normal(size=(size, 3)) * 4.0, random.integers(0, 3, size)
    best, curvature = fitted(known, gold)
    at = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    said, right = torch.tensor(log_shares(known)), torch.tensor(gold)
    optimiser = torch.optim.LBFGS([at], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss(at: torch.Tensor) -> torch.Tensor:
        off = at - torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
        return torch.nn.functional.cross_entropy(at[0] * said + at[1:], right, reduction="sum") + 0.05 * (off**2).sum()

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        total = loss(at)
        total.backward()
        return total

    optimiser.step(step)
    assert best.tolist() == pytest.approx(at.tolist(), abs=1e-5)
    by_hand = torch.autograd.functional.hessian(loss, at.detach())
    assert curvature.ravel().tolist() == pytest.approx(by_hand.ravel().tolist(), rel=1e-4, abs=1e-4)


def test_what_is_parted_without_a_mistake_is_not_believed_without_end() -> None:
    known = np.array([[0.0, -9.0], [-9.0, 0.0]] * 8)
    (scale, *bias), _ = fitted(known, np.array([0, 1] * 8))
    assert 1 < scale < 3
    assert bias == pytest.approx([0.0, 0.0], abs=1e-6)
