"""Rates by formula, at the ends as well as in the middle."""

from __future__ import annotations

import math

import pytest

from ctxtune.engine.schedule import factor, highest

KINDS = ("constant", "linear", "cosine", "wsd")


def course(steps: int, kind: str, warmup: float) -> list[float]:
    return [factor(step, steps, kind, warmup) for step in range(steps)]


def test_linear_with_a_warm_up() -> None:
    falling = [left / 7 for left in range(7, 0, -1)]
    assert course(10, "linear", 0.3) == pytest.approx([1 / 4, 2 / 4, 3 / 4, *falling])


def test_a_run_may_be_too_short_to_reach_its_rate() -> None:
    assert [highest(steps, "linear", 0.1) for steps in (1, 2, 20)] == [1 / 2, 1, 1]


def test_linear_without() -> None:
    assert course(4, "linear", 0.0) == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])


def test_constant() -> None:
    assert course(5, "constant", 0.4) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])
    assert course(3, "constant", 0.0) == [1, 1, 1]


def test_cosine_is_half_a_wave() -> None:
    wave = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert course(10, "cosine", 0.2) == pytest.approx([1 / 3, 2 / 3, *wave])
    assert course(4, "cosine", 0.0) == pytest.approx([1, 0.5 * (1 + math.sqrt(0.5)), 0.5, 0.5 * (1 - math.sqrt(0.5))])


def test_wsd_is_flat_and_falls_over_the_last_fifth() -> None:
    assert course(20, "wsd", 0.1) == pytest.approx([1 / 3, 2 / 3, *[1] * 15, 3 / 4, 2 / 4, 1 / 4])
    assert course(10, "wsd", 0.0) == pytest.approx([1] * 9 + [1 / 2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [0.0, 0.06, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 97, 1000])
def test_every_factor_is_above_0_and_at_most_1(kind: str, warmup: float, steps: int) -> None:
    factors = course(steps, kind, warmup)
    assert all(0 < one <= 1 for one in factors)
    rise = factors.index(max(factors))
    assert factors[: rise + 1] == sorted(factors[: rise + 1])
    assert factors[rise:] == sorted(factors[rise:], reverse=True)
    assert abs(rise - min(math.ceil(warmup * steps), steps - 1)) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_warm_up(kind: str) -> None:
    assert course(4, kind, 1.0) == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5])


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_step(kind: str) -> None:
    assert course(1, kind, 0.0) == [1.0]
    assert course(1, kind, 1.0) == [0.5]


def test_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="'steps'"):
        factor(5, 10, "steps", 0.0)
