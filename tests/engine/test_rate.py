"""The range test on toy problems with a known answer; the numbers stand where they stood, bit for bit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from ctxtune.engine.rate import LADDER, Trials, choose_rate, find_rate, trial_steps
from ctxtune.recipe.schema import Train

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

OPTIONS = Train(batch=8)


class Valley:
    """Example i pulls the numbers to `target` + noise: loss = curvature / 2 * |w - t_i|^2 a token."""

    def __init__(self, count: int, target: float, curvature: float = 1.0, noise: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.targets = target + noise * torch.randn(count, 4, generator=generator)
        self.curvature = curvature
        self.params = {"w": nn.Parameter(torch.randn(4, generator=generator) * 1e-3)}
        self.trained: set[int] = set()
        self.judged: set[int] = set()
        self.asked: list[tuple[int, int]] = []

    def shares(self, step: int, epoch: int) -> dict[str, float]:
        self.asked.append((step, epoch))
        return {"w": 1.0}

    def tokens(self, batch: Sequence[int]) -> int:
        return len(batch)

    def parts(self, batch: Sequence[int], rows: int | None) -> list[list[int]]:
        self.trained |= set(batch)
        return [list(batch)]

    def loss(self, part: Sequence[int]) -> Tensor:
        return self.curvature / 2 * ((self.params["w"] - self.targets[list(part)]) ** 2).sum()

    def losses(self, batch: Sequence[int]) -> list[float]:
        self.judged |= set(batch)
        with torch.no_grad():
            return [self.loss([i]).item() for i in batch]


def bits(task: Valley) -> bytes:
    return task.params["w"].detach().numpy().tobytes()


@pytest.mark.parametrize(("target", "best"), [(2e-5, {1e-5, 3e-5}), (0.01, {1e-4, 3e-4, 1e-3}), (1.0, {3e-3})])
def test_a_rate_that_fits_the_way_to_go(target: float, best: set[float]) -> None:
    """Adam goes about rate x steps: a far target wants a high rate, a near one is overshot by it."""
    task = Valley(64, target)
    with torch.no_grad():
        task.params["w"].zero_()
    found = find_rate(task.params, task, [5] * 64, 200, task.shares, OPTIONS)
    assert found.lr in best
    assert found.lr in dict(found.tried)


def test_a_linear_loss_wants_the_highest_rate() -> None:
    task = Valley(40, 1000.0)
    assert find_rate(task.params, task, [5] * 40, 60, task.shares, OPTIONS).lr == LADDER[-1]


def test_the_numbers_stand_where_they_stood() -> None:
    task = Valley(64, 0.01, noise=0.1)
    before, place = bits(task), task.params["w"].data_ptr()
    find_rate(task.params, task, [5] * 64, 100, task.shares, OPTIONS)
    assert bits(task) == before
    assert task.params["w"].data_ptr() == place
    assert task.params["w"].grad is None


def test_also_after_trials_that_blew_up() -> None:
    task = Valley(64, 0.001, curvature=1e30)
    task.curvature = math.inf
    before = bits(task)
    find_rate(task.params, task, [5] * 64, 100, task.shares, OPTIONS)
    assert bits(task) == before


def test_the_random_state_is_left_alone() -> None:
    task = Valley(32, 0.01)
    before = torch.get_rng_state()
    find_rate(task.params, task, [5] * 32, 60, task.shares, OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_seeds_find_equal_numbers_and_others_look_at_other_rows() -> None:
    def tried(seed: int) -> tuple[tuple[float, float], ...]:
        task = Valley(64, 0.01, noise=0.5)
        return find_rate(task.params, task, [5] * 64, 100, task.shares, Train(batch=8, seed=seed)).tried

    assert tried(0) == tried(0)
    assert tried(0) != tried(1)


def test_judged_are_rows_that_were_not_trained_on() -> None:
    task = Valley(80, 0.01)
    find_rate(task.params, task, [5] * 80, 600, task.shares, OPTIONS)
    assert len(task.judged) == 10
    assert not task.judged & task.trained
    assert len(task.trained) > 50


def test_lower_rates_are_tried_while_the_lowest_is_the_best() -> None:
    """A near target is overshot by every rate that was asked for; a far one wants the highest, and none below."""

    def rates(target: float) -> list[float]:
        task = Valley(64, target)
        with torch.no_grad():
            task.params["w"].zero_()
        trials = Trials((1e-3, 3e-3), 20, 8, below=(3e-4, 1e-4, 3e-5))
        return [lr for lr, _ in find_rate(task.params, task, [5] * 64, 200, task.shares, OPTIONS, trials=trials).tried]

    assert rates(1.0) == [1e-3, 3e-3]
    assert rates(2e-5) == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_very_few_examples(count: int) -> None:
    task = Valley(count, 0.01)
    before = bits(task)
    found = find_rate(task.params, task, [5] * count, 1, task.shares, OPTIONS)
    assert found.lr in LADDER
    assert len(task.judged) == 1
    assert bits(task) == before
    assert found.steps == 8 * len(found.tried)


def test_the_cost_is_about_that_of_the_run() -> None:
    task = Valley(64, 1000.0)
    found = find_rate(task.params, task, [5] * 64, 120, task.shares, OPTIONS)
    assert found.steps == 20 * len(LADDER) == 120
    assert found.seconds > 0
    long = find_rate(task.params, task, [5] * 64, 100_000, task.shares, OPTIONS)
    assert long.steps == 64 * len(LADDER)


@pytest.mark.parametrize(("rows", "steps"), [(64, 120), (64, 100_000), (64, 3), (8, 30), (7, 30)])
def test_the_cost_is_foreseen(rows: int, steps: int) -> None:
    """The linear loss goes up the whole ladder."""
    task = Valley(64, 1000.0)
    taken = find_rate(task.params, task, [5] * rows, steps, task.shares, OPTIONS).steps if rows > 7 else 0
    assert trial_steps(LADDER, rows, steps) == taken


def test_a_trial_goes_through_the_epochs_of_the_run() -> None:
    task = Valley(64, 1000.0)
    find_rate(task.params, task, [5] * 64, 480, task.shares, OPTIONS)  # 60 epochs of 8 steps in 64
    steps, epochs = zip(*task.asked, strict=True)
    assert list(steps) == list(range(64))
    assert epochs[0] == 0
    assert epochs[-1] == 59
    assert sorted(epochs) == list(epochs)


def test_a_trial_never_leaves_the_run() -> None:
    task = Valley(64, 1000.0)
    find_rate(task.params, task, [5] * 64, 3, task.shares, OPTIONS)
    assert max(task.asked) == (2, 0)


def test_what_stands_still_in_the_run_stands_still_in_a_trial() -> None:
    task = Valley(64, 0.01)
    task.params["other"] = nn.Parameter(torch.zeros(3))
    loss = task.loss
    task.loss = lambda part: loss(part) + task.params["other"].sum()  # type: ignore[method-assign]
    tried = find_rate(task.params, task, [5] * 64, 60, task.shares, OPTIONS).tried
    assert tried == find_rate(task.params, task, [5] * 64, 60, task.shares, OPTIONS).tried
    moved = find_rate(task.params, task, [5] * 64, 60, lambda *_: {"w": 1.0, "other": 1.0}, OPTIONS).tried
    assert moved != tried


def test_trials_of_ones_own() -> None:
    task = Valley(64, 1000.0)
    trials = Trials((1e-4, 1e-3), 5, 20)
    found = find_rate(task.params, task, [5] * 64, 480, task.shares, OPTIONS, trials=trials)
    assert [lr for lr, _ in found.tried] == [1e-4, 1e-3]
    assert found.steps == 10
    assert len(task.judged) == len(found.losses) == 20
    assert sum(found.losses) / 20 == min(loss for _, loss in found.tried)


def test_every_trial_is_told() -> None:
    task = Valley(64, 1000.0)
    told: list[tuple[float, float]] = []
    found = find_rate(
        task.params, task, [5] * 64, 60, task.shares, OPTIONS, on_trial=lambda lr, loss: told.append((lr, loss))
    )
    assert tuple(told) == found.tried
    assert [lr for lr, _ in told] == list(LADDER)


def test_rates_far_too_high_are_not_tried() -> None:
    task = Valley(64, 1e-4)
    with torch.no_grad():
        task.params["w"].zero_()
    found = find_rate(task.params, task, [5] * 64, 300, task.shares, OPTIONS)
    assert len(found.tried) < len(LADDER)
    assert found.lr <= 1e-4


def test_the_lowest_within_one_standard_error() -> None:
    # Against the best, the gaps of the others: mean 0.1 with an error of 0.2, and mean 1 with an error of 0.
    best = [1.0, 2.0, 3.0, 4.0]
    near = [1.5, 1.7, 3.3, 3.9]
    far = [2.0, 3.0, 4.0, 5.0]
    assert choose_rate([(1e-4, far), (3e-4, near), (1e-3, best)]) == 3e-4
    assert choose_rate([(1e-4, near), (3e-4, far), (1e-3, best)]) == 1e-4
    assert choose_rate([(1e-4, far), (3e-4, far), (1e-3, best)]) == 1e-3
    assert choose_rate([(1e-4, best), (3e-4, best)]) == 1e-4


def test_a_single_held_out_row() -> None:
    assert choose_rate([(1e-4, [2.0]), (3e-4, [1.0]), (1e-3, [1.5])]) == 3e-4


def test_trials_without_a_number_are_the_worst() -> None:
    class Cliff(Valley):
        def losses(self, batch: Sequence[int]) -> list[float]:
            moved = float(self.params["w"].detach().abs().max())
            return [math.nan if moved > 0.01 else 1.0 - moved for _ in batch]

    task = Cliff(64, 1000.0)
    with torch.no_grad():
        task.params["w"].zero_()
    found = find_rate(task.params, task, [5] * 64, 300, task.shares, OPTIONS)
    assert found.lr < 1e-3
    assert all(math.isfinite(loss) for _, loss in found.tried)
