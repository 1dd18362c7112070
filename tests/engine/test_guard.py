"""A guard in the loop: each step follows the gradient of both losses, by hand; the state of dual ascent, and what is best."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.engine.log import RunLog, read_log
from ctxtune.engine.loop import Course, Desk, State, fit
from ctxtune.engine.stop import Stop

from .test_loop import OPTIONS, Killed, Regression, batches, kill_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ctxtune.engine.loop import StepFacts

BUDGET, RATE, HASTE = 0.5, 0.3, 0.7


class Hold:
    """Row r of three is held near its start: K_r = (r + 1) / 6 of |w - 1|^2."""

    budget = BUDGET

    def __init__(self, task: Regression) -> None:
        self.task = task

    def pull(self, step: int, weight: float) -> float:
        kl = (step % 3 + 1) / 6 * ((self.task.params["w"] - 1) ** 2).sum()
        if weight > 0:
            (weight * kl).backward()  # type: ignore[no-untyped-call]
        return kl.item()

    def ascend(self, weight: float, kl: float, before: float) -> float:
        return max(0.0, weight + RATE * (kl / self.budget - 1) + HASTE * (kl - before) / self.budget)


class Run:
    """One call of `fit` beside a guard; evaluations are pairs of the loss and the KL."""

    def __init__(self, folder: Path, evaluations: Sequence[tuple[float, float]] = (), **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.task = folder, Regression()
        self.options = OPTIONS.model_copy(update={"steps": 12, **options})
        self.evaluations = list(evaluations)
        self.facts: list[StepFacts] = []
        self.seen: list[list[float]] = []
        self.at: Callable[[StepFacts], None] = lambda facts: None

    def __call__(self, resume: int | None = None, begun: dict[str, float] | None = None) -> State:
        def on_step(facts: StepFacts) -> None:
            self.facts.append(facts)
            self.seen.append(self.task.values())
            self.at(facts)

        def evaluate() -> dict[str, float]:
            loss, kl = self.evaluations.pop(0)
            return {"loss": loss, "guard_kl": kl}

        moving = {"w": 1.0, "b": 1.0}
        desk = Desk(self.folder / "last", self.folder / "best", RunLog(self.folder / "log", resume))
        return fit(
            self.task.params, self.task, Course(12, 0.1, batches, lambda step, epoch: moving, guard=Hold(self.task)),
            self.options, desk, Stop(), evaluate=evaluate if self.evaluations else None, on_step=on_step,
            token_count=len, notes={}, begun=begun,
        )  # fmt: skip


def by_hand(clip: float | None) -> tuple[list[list[float]], list[float], list[float]]:
    """AdamW on L + weight K in double precision: the numbers behind each step, K and its weight before it."""
    task = Regression()
    x, y = task.x.double(), task.y.double()
    theta = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([theta], lr=0.1, weight_decay=OPTIONS.weight_decay)
    thetas, kls, weights, weight = [], [], [], 0.0
    for step in range(12):
        batch = torch.tensor(batches(step // 3)[step % 3])
        count = (batch % 3 + 1).double()
        off = x[batch] @ theta[:3] + theta[3] - y[batch]
        kl = (step % 3 + 1) / 6 * ((theta[:3] - 1) ** 2).sum()
        loss = (off**2 * count).sum() / count.sum() + weight * kl
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([theta], clip)
        optimizer.step()
        weights.append(weight)
        rise = kl.item() - (kls[-1] if kls else 0.0)
        weight = max(0.0, weight + RATE / BUDGET * (kl.item() - BUDGET) + HASTE / BUDGET * rise)
        kls.append(kl.item())
        thetas.append(theta.tolist())
    return thetas, kls, [*weights, weight]


@pytest.mark.parametrize("clip", [None, 0.5])
def test_both_gradients_and_dual_ascent(clip: float | None, tmp_path: Path) -> None:
    run = Run(tmp_path, clip=clip)
    state = run()
    thetas, kls, weights = by_hand(clip)
    assert max(weights) > 0.1
    assert weights[-1] != weights[-2]
    for ours, theirs in zip(run.seen, thetas, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert [facts.guard_kl for facts in run.facts] == pytest.approx(kls, rel=1e-4, abs=1e-6)
    assert [facts.guard_weight for facts in run.facts] == pytest.approx(weights[:-1], rel=1e-4, abs=1e-5)
    assert state.guard_weight == pytest.approx(weights[-1], rel=1e-4)
    assert [record["guard_kl"] for record in read_log(tmp_path / "log")] == [facts.guard_kl for facts in run.facts]


@pytest.mark.parametrize("at", [1, 6, 9])
def test_killed_and_resumed(at: int, tmp_path: Path) -> None:
    straight = Run(tmp_path / "straight", save_every=2)
    expected = straight()
    broken = Run(tmp_path / "broken", save_every=2)
    broken.at = kill_at(at)
    with pytest.raises(Killed):
        broken()
    done = (at - 1) // 2 * 2
    again = Run(tmp_path / "broken", save_every=2)
    state = again(resume=done)
    assert again.task.values() == straight.task.values()
    assert state.guard_weight == expected.guard_weight > 0
    logs = [read_log(tmp_path / name / "log") for name in ("straight", "broken")]
    assert [[record[key] for key in ("loss", "guard_kl", "guard_weight")] for record in logs[0]] == [
        [record[key] for key in ("loss", "guard_kl", "guard_weight")] for record in logs[1]
    ]


@pytest.mark.parametrize(("evaluations", "best"), [
    ([(3.0, 0.6), (2.0, 0.7), (4.0, 0.5), (3.5, 0.1)], 12),  # of those within the budget the least loss
    ([(3.0, 0.9), (2.0, 0.7), (1.0, 0.8), (0.5, 0.75)], 6),  # none is: the nearest to it
    ([(3.0, 0.2), (2.0, 0.7), (1.0, 0.8), (0.5, 0.75)], 3),
    ([(math.nan, 0.0), (2.0, 0.9), (math.nan, 0.0), (math.inf, 0.0)], 6),
])  # fmt: skip
def test_the_best_step_is_within_the_budget(evaluations: list[tuple[float, float]], best: int, tmp_path: Path) -> None:
    run = Run(tmp_path, evaluations, eval_every=3)
    state = run()
    assert state.best_step == best
    assert run.task.values() == run.seen[best - 1]


def test_a_start_above_the_budget_gives_way(tmp_path: Path) -> None:
    run = Run(tmp_path / "above", [(3.0, 0.6)] * 4, eval_every=3)
    assert run(begun={"loss": 1.0, "guard_kl": 0.7}).best_step == 3
    run = Run(tmp_path / "within", [(3.0, 0.6)] * 4, eval_every=3)
    assert run(begun={"loss": 9.0, "guard_kl": 0.4}).best_step == 0
    assert run.task.values() == Regression().values()
