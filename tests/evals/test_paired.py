"""Comparing two results: the bootstrap against closed forms and an exact enumeration, the sign test against binomials."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctxtune.errors import DataError
from ctxtune.evals import paired
from ctxtune.evals.items import Item
from ctxtune.evals.paired import compare, resampled_means, sign_test

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(values: Sequence[float], name: str = "acc", weights: Sequence[float] | None = None) -> list[Item]:
    return [Item(f"row {i:05}", i, {name: value}, {}, weights[i] if weights else 1.0) for i, value in enumerate(values)]


def test_the_draws_are_those_of_all_resamples() -> None:
    """Of 4 rows there are 256 equally likely draws: every mean comes as often as it should."""
    gaps = [0.0, 1.0, 1.0, 4.0]
    exact = [sum(draw) / 4 for draw in itertools.product(gaps, repeat=4)]
    found = resampled_means(np.array(gaps)[:, None], np.ones(4), 0)[:, 0]
    assert len(found) == 10_000
    for value in sorted(set(exact)):
        share = exact.count(value) / 256
        seen = float(np.isclose(found, value).mean())
        assert seen == pytest.approx(share, abs=4.5 * math.sqrt(share * (1 - share) / 10_000))


def test_the_interval_is_the_normal_one_where_rows_are_many() -> None:
    random = np.random.default_rng(1)
    ours, theirs = random.normal(0.3, 1.0, 2000), random.normal(0.0, 1.0, 2000)
    found = compare(table(ours.tolist()), table(theirs.tolist()), "base")["acc"]
    gaps = ours - theirs
    reach = NormalDist().inv_cdf(0.975) * gaps.std() / math.sqrt(2000)  # what resampling converges to: deviation / n
    assert found.difference == pytest.approx(gaps.mean())
    assert found.other == pytest.approx(theirs.mean())
    assert (found.low, found.high) == pytest.approx((gaps.mean() - reach, gaps.mean() + reach), abs=0.06 * reach)


def test_pairing_is_what_makes_it_sharp() -> None:
    """Two results that differ by a constant differ by it in every draw, however much their rows differ."""
    hard = np.random.default_rng(0).normal(0, 10, 50)
    found = compare(table((hard + 0.5).tolist()), table(hard.tolist()), "base")["acc"]
    assert (found.low, found.difference, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.p == pytest.approx(2 * 0.5**50)


def test_the_same_seed_gives_the_same_interval() -> None:
    ours, theirs = table([1, 0, 1, 1, 0, 1, 1]), table([0, 0, 1, 0, 0, 1, 0])
    assert compare(ours, theirs, "base", 3) == compare(ours, theirs, "base", 3)
    assert len({tuple(resampled_means(np.arange(9.0)[:, None], np.ones(9), seed)[:5, 0]) for seed in (0, 1)}) == 2


def test_draws_that_do_not_fit_into_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps, weights = np.arange(6.0).reshape(3, 2), np.array([1.0, 2.0, 3.0])
    whole = resampled_means(gaps, weights, 0)
    monkeypatch.setattr(paired, "_CELLS", 1000)
    assert np.array_equal(resampled_means(gaps, weights, 0), whole)


def test_windows_weigh_as_much_as_they_have_tokens() -> None:
    weights = [100.0, 10.0]
    found = compare(table([2.0, 5.0], "loss", weights), table([1.0, 1.0], "loss", weights), "base")["loss"]
    assert found.difference == pytest.approx((100 * 1 + 10 * 4) / 110)
    assert (found.low, found.high) == pytest.approx((1.0, 4.0))  # a draw of one window twice has its mean


@pytest.mark.parametrize(("higher", "lower"), [(0, 0), (1, 0), (5, 0), (3, 9), (9, 3), (8, 8), (40, 61), (0, 900)])
def test_the_sign_test_is_the_binomial(higher: int, lower: int) -> None:
    count = higher + lower
    tail = sum(math.comb(count, k) for k in range(min(higher, lower) + 1)) / 2**count
    assert sign_test(higher, lower) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_mcnemar() -> None:
    """Hits and misses: 12 rows right here alone, 4 there alone. Exact p: 2 * (1 + 16 + 120 + 560 + 1820) / 2 ** 16."""
    ours, theirs = [1] * 12 + [0] * 4 + [1] * 30 + [0] * 10, [0] * 12 + [1] * 4 + [1] * 30 + [0] * 10
    found = compare(table(ours), table(theirs), "base")["acc"]
    assert (found.higher, found.lower) == (12, 4)
    assert found.difference == pytest.approx(8 / 56)
    assert found.p == pytest.approx(2 * 2517 / 65536)


def test_rows_are_matched_by_hash() -> None:
    ours, theirs = table([1.0, 2.0, 3.0]), table([1.0, 2.0, 3.5])
    found = compare(ours, theirs[::-1], "base")["acc"]
    assert (found.higher, found.lower) == (0, 1)
    twice = [Item("same", line, {"acc": value}) for line, value in ((1, 0.0), (2, 1.0))]
    assert compare(twice, twice, "base")["acc"].difference == 0.0
    assert compare(twice, twice, "base")["acc"].p == 1.0


@pytest.mark.parametrize(
    "theirs", [table([1.0]), table([1.0, 1.0, 1.0]), [*table([1.0]), Item("other", 2, {"acc": 1.0})]]
)
def test_other_rows_are_refused(theirs: list[Item]) -> None:
    with pytest.raises(DataError, match=r"earlier\.jsonl was scored on other rows"):
        compare(table([1.0, 1.0]), theirs, "earlier.jsonl")


def test_only_scores_that_both_have_are_compared() -> None:
    ours = [Item("a", 1, {"acc": 1.0, "loss": 2.0, "f1": 0.5})]
    theirs = [Item("a", 1, {"loss": math.nan, "acc": 0.0, "em": 1.0})]
    assert compare(ours, theirs, "base").keys() == {"acc"}
    with pytest.raises(DataError, match="earlier has none of the scores f1"):
        compare(table([1.0], "f1"), table([1.0], "bleu"), "earlier")


def test_rounding_is_no_difference_and_what_is_larger_is() -> None:
    """Log-probabilities of one model, summed in another order: all a little higher, and none of it means anything."""
    loss = np.random.default_rng(0).normal(2.0, 0.5, 40)
    noise = compare(table((loss + 9e-4).tolist()), table(loss.tolist()), "base")["acc"]
    assert (noise.higher, noise.lower, noise.p) == (0, 0, 1.0)
    assert noise.difference == pytest.approx(9e-4)
    told = compare(table((loss + 1.1e-3).tolist()), table(loss.tolist()), "base")["acc"]
    assert (told.higher, told.lower) == (40, 0)
    assert told.p < 1e-9


def test_a_classifier_and_a_model_that_reads_its_choices_share_their_hits_alone() -> None:
    """log p over the classes and log p over all tokens are two things."""
    read = [Item(str(i), i, {"acc": 1.0, "acc_norm": 1.0, "acc_bytes": 1.0, "loss": 0.5}) for i in range(3)]
    classified = [Item(str(i), i, {"acc": 0.0, "loss": 0.1}) for i in range(3)]
    assert compare(read, classified, "x").keys() == compare(classified, read, "x").keys() == {"acc"}
    assert compare(classified, classified, "x").keys() == {"acc", "loss"}
