"""Confusion and calibration error, by hand."""

from __future__ import annotations

import random

import pytest

from ctxtune.evals.reliability import calibration_error, confusion


def test_a_row_for_each_label_and_a_column_for_each_answer() -> None:
    assert confusion([0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 2, 2], 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    assert confusion([], [], 2).tolist() == [[0, 0], [0, 0]]


def test_the_error_of_bins() -> None:
    # In (0.6, 0.667]: 0.62 and 0.66, one hit of two; in (0.933, 1]: 0.95 and 1.0, both hits.
    expected = 2 / 4 * abs(0.5 - 0.64) + 2 / 4 * abs(1.0 - 0.975)
    assert calibration_error([0.62, 0.66, 0.95, 1.0], [1, 0, 1, 1]) == pytest.approx(expected)


def test_an_edge_belongs_to_the_bin_below() -> None:
    # 9/15 stands in (8/15, 9/15] and 0.61 in the next: neither makes up for the other.
    assert calibration_error([9 / 15, 0.61], [1, 0]) == pytest.approx((0.4 + 0.61) / 2)
    assert calibration_error([9 / 15, 0.59], [1, 0]) == pytest.approx(abs(0.5 - 0.595))


def test_against_a_loop_over_the_bins() -> None:
    chance = random.Random(0)
    sure = [chance.uniform(0.25, 1) for _ in range(500)]
    hits = [float(chance.random() < one**2) for one in sure]
    error = 0.0
    for b in range(15):
        some = [i for i, one in enumerate(sure) if b / 15 < one <= (b + 1) / 15]
        if some:
            error += abs(sum(hits[i] - sure[i] for i in some) / len(some)) * len(some) / 500
    assert calibration_error(sure, hits) == pytest.approx(error)
    assert error > 0.05
