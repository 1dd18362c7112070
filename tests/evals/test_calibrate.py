"""Calibrated scores against probabilities worked out by hand, and the estimate of shares against what they were drawn with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctxtune.evals.calibrate import (
    LEAST,
    Unasked,
    calibrated,
    counted_shares,
    distance,
    log_mean,
    log_shares,
    shrinkage,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of two labels the model prefers the first by far: 0.9 to 0.6 where it is wrong.
TOLD = np.log([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]])
FREE = np.log([[0.7, 0.3], [0.8, 0.2]])


def shares(scores: NDArray[np.float64]) -> list[list[float]]:
    return [(np.exp(row) / np.exp(row).sum()).tolist() for row in scores]


def test_what_is_said_of_the_choices_is_normalised() -> None:
    assert np.exp(log_shares(np.array([[-1.0, -1.0], [-800.0, -801.0]]))).tolist() == [
        pytest.approx([0.5, 0.5]),
        pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e)]),
    ]
    assert np.exp(log_mean(FREE - 5.0)).tolist() == pytest.approx(
        [0.75, 0.25]
    )  # the likelihoods need not add up to one
    assert np.isfinite(log_mean(np.array([[0.0, -2000.0]]))).all()


def test_contextual_and_domain_divide_by_the_mean_of_what_nothing_gives() -> None:
    found = calibrated(TOLD - 3.0, Unasked({"domain": FREE, "contextual": FREE[:1]}))
    by_hand = [(a / 0.75, b / 0.25) for a, b in np.exp(TOLD).tolist()]
    assert shares(found["domain"]) == [pytest.approx([a / (a + b), b / (a + b)]) for a, b in by_hand]
    assert found["domain"].argmax(1).tolist() == [0, 1, 0]
    assert found["contextual"][0].tolist() == pytest.approx([math.log(0.9 / 0.7 / 2), math.log(0.1 / 0.3 / 2)])
    assert list(found) == ["none", "contextual", "domain", "batch"]


def test_batch_divides_by_the_mean_over_the_rows_and_trusts_many() -> None:
    rows = np.tile(TOLD, (16, 1))  # 48 rows of 2 choices: g = 48 / 50
    mean = np.exp(TOLD).mean(0)
    expected = [math.log(0.6) - 48 / 50 * math.log(mean[0] * 2), math.log(0.4) - 48 / 50 * math.log(mean[1] * 2)]
    assert calibrated(rows, Unasked())["batch"][1].tolist() == pytest.approx(expected)
    assert (shrinkage(2 * LEAST, 2), shrinkage(2 * LEAST - 1, 2)) == (32 / 34, 0.0)
    few = calibrated(TOLD, Unasked())
    assert few["batch"].tolist() == few["none"].tolist()


def test_pmi_is_what_the_row_adds_to_the_premise() -> None:
    premise = np.array([-1.0, -4.0])
    lls = np.array([[-2.0, -3.0], [-1.0, -5.0]])
    found = calibrated(lls, Unasked(premise=premise))["pmi"]
    gaps = (lls - premise).tolist()  # [-1, 1], [0, -1]
    assert found.argmax(1).tolist() == [1, 0]
    assert (found[:, 0] - found[:, 1]).tolist() == pytest.approx([a - b for a, b in gaps])
    own = calibrated(lls[:1], Unasked(premise=premise), shared=False)
    assert list(own) == ["none", "pmi"]
    assert own["pmi"].argmax() == 1


def test_the_channel_goes_by_the_questions_alone() -> None:
    found = calibrated(TOLD, Unasked(channel=np.array([[-9.0, -7.0]] * 3)), np.array([0.9, 0.1]))["channel"]
    assert (found[:, 0] - found[:, 1]).tolist() == pytest.approx([math.log(9) - 2] * 3)


def test_shares_are_added_as_logarithms() -> None:
    unasked = Unasked({"domain": FREE}, premise=np.array([-1.0, -2.0]))
    even, given = calibrated(TOLD, unasked), calibrated(TOLD, unasked, np.array([0.9, 0.1]))
    for name in ("domain", "pmi"):
        assert (given[name] - even[name])[0].tolist() == pytest.approx([math.log(0.9 / 0.5), math.log(0.1 / 0.5)])
    assert given["none"].tolist() == even["none"].tolist()


def test_batch_with_the_right_shares_leaves_a_model_alone_that_prefers_nothing() -> None:
    """A stream of nine to one, of which the model says the truth: the mean over the rows is no preference."""
    rows = np.log(np.repeat([[0.95, 0.05], [0.45, 0.55]], [90, 10], axis=0))
    mean = np.exp(rows).mean(0)
    assert (calibrated(rows, Unasked(), mean)["batch"].argmax(1) == rows.argmax(1)).all()
    skewed = np.log(np.repeat([[0.95, 0.05], [0.8, 0.2], [0.45, 0.55]], [70, 20, 10], axis=0))
    assert (calibrated(skewed, Unasked())["batch"][70:90].argmax(1) == 1).all()  # right ones are turned over
    assert (calibrated(skewed, Unasked(), np.array([0.9, 0.1]))["batch"][70:90].argmax(1) == 0).all()


def test_answers_are_counted() -> None:
    scores = np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.4, 0.5, 0.1], [0.6, 0.2, 0.2]])
    assert counted_shares(scores).tolist() == [0.5, 0.5, 0.0]


def test_distance() -> None:
    assert distance([0.9, 0.1], [0.5, 0.5]) == pytest.approx(0.4)
    assert distance([1, 0, 0], [0, 0, 1]) == 1.0
