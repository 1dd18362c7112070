"""The spread of a score over draws, by hand."""

from __future__ import annotations

import math

import pytest

from ctxtune.evals.spread import spread


def test_mean_worst_and_deviation() -> None:
    found = spread([0.5, 0.8, 0.2, 0.9], [0.01, 0.02, 0.03, 0.04])
    deviation = math.sqrt((0.1**2 + 0.2**2 + 0.4**2 + 0.3**2) / 3)  # from the mean, 0.6
    expected = {"mean": 0.6, "mean_stderr": deviation / 2, "worst": 0.2, "worst_stderr": 0.03, "deviation": deviation}
    assert found == pytest.approx(expected)
