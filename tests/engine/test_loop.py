"""The loop on problems small enough to be done by hand: the numbers, the best, the last, and every way to end."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from ctxtune.engine import checkpoint
from ctxtune.engine.log import RunLog, read_log
from ctxtune.engine.loop import Course, Desk, State, StepFacts, fit, take_step
from ctxtune.engine.optimizer import make_optimizer
from ctxtune.engine.stop import Stop, stop_signals
from ctxtune.errors import CtxtuneError, Interrupted, StorageError
from ctxtune.recipe.schema import Train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from ctxtune.engine.optimizer import Shares

OPTIONS = Train(batch=4, lr=0.1, schedule="constant", warmup=0.0, clip=None, steps=6)
COUNT = 10


class Regression:
    """Example i has i % 3 + 1 supervised tokens, each with the loss (x_i . w + b - y_i)^2."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(COUNT, 3, generator=generator)
        self.y = torch.randn(COUNT, generator=generator)
        self.params = {"w": nn.Parameter(torch.ones(3)), "b": nn.Parameter(torch.zeros(1))}
        self.asked: list[list[int]] = []
        self.spoil_at: int | None = None

    def tokens(self, batch: Sequence[int]) -> int:
        return sum(i % 3 + 1 for i in batch)

    def parts(self, batch: Sequence[int], rows: int | None) -> list[list[int]]:
        self.asked.append(list(batch))
        rows = rows or len(batch)
        return [list(batch[i : i + rows]) for i in range(0, len(batch), rows)]

    def loss(self, part: Sequence[int]) -> Tensor:
        index = torch.tensor(part)
        off = self.x[index] @ self.params["w"] + self.params["b"] - self.y[index]
        total = (off**2 * (index % 3 + 1)).sum()
        return total * math.nan if self.spoil_at is not None and len(self.asked) > self.spoil_at else total

    def losses(self, batch: Sequence[int]) -> list[float]:
        return [self.loss([i]).item() for i in batch]

    def values(self) -> list[float]:
        return [*self.params["w"].tolist(), *self.params["b"].tolist()]


def batches(epoch: int) -> list[list[int]]:
    """Three batches of other examples in each epoch."""
    order = [(i * 3 + epoch) % COUNT for i in range(COUNT)]
    return [order[i : i + 4] for i in range(0, COUNT, 4)]


class Run:
    """One call of `fit` on files in `folder`."""

    def __init__(self, folder: Path, options: Train = OPTIONS, evaluations: Sequence[float] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.options = options
        self.evaluations = None if evaluations is None else list(evaluations)
        self.task = Regression()
        self.facts: list[StepFacts] = []
        self.seen: list[list[float]] = []
        self.stop = Stop()
        self.on_step: Callable[[StepFacts], None] = lambda facts: None
        self.shares: Shares = lambda step, epoch: {"w": 1.0, "b": 1.0}

    def __call__(self, resume: bool = False) -> State:
        last = self.folder / "last"
        found = checkpoint.read_state(last)
        step = found["loop"]["step"] if resume and found is not None else None
        desk = Desk(last, self.folder / "best", RunLog(self.folder / "log", step))
        return fit(
            self.task.params, self.task, Course(self.options.steps or 0, float(self.options.lr), batches, self.shares),
            self.options, desk, self.stop, evaluate=self._evaluate if self.evaluations is not None else None,
            on_step=self._step, token_count=lambda batch: 10 * len(batch), notes={"note": "kept"},
        )  # fmt: skip

    def _step(self, facts: StepFacts) -> None:
        self.facts.append(facts)
        self.seen.append(self.task.values())
        self.on_step(facts)

    def _evaluate(self) -> Mapping[str, float]:
        assert self.evaluations is not None
        return {"loss": self.evaluations.pop(0), "acc": 0.5}

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] | None = checkpoint.read_state(self.folder / "last")
        assert found is not None
        return found


def by_hand(options: Train, rates: Sequence[float]) -> tuple[list[list[float]], list[float], list[float]]:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) in double precision: numbers, losses and gradient norms by step."""
    task = Regression()
    x, y = task.x.double(), task.y.double()
    theta = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    m, v = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    thetas, found, norms = [], [], []
    for step, rate in enumerate(rates):
        epoch, place = divmod(step, 3)
        batch = torch.tensor(batches(epoch)[place])
        weight = (batch % 3 + 1).double()
        inputs = torch.cat([x[batch], torch.ones(len(batch), 1, dtype=torch.float64)], 1)
        off = inputs @ theta - y[batch]
        found.append(((off**2 * weight).sum() / weight.sum()).item())
        grad = (2 * off * weight) @ inputs / weight.sum()
        norms.append(grad.norm().item())
        if options.clip is not None:
            grad = grad * min(1.0, options.clip / (grad.norm().item() + 1e-6))
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        theta = theta - rate * options.weight_decay * theta
        theta = theta - rate * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        thetas.append(theta.tolist())
    return thetas, found, norms


@pytest.mark.parametrize(("change", "rates"), [
    ({}, [0.1] * 6),
    ({"weight_decay": 0.3}, [0.1] * 6),
    ({"clip": 0.5}, [0.1] * 6),
    ({"clip": 1e6, "micro_batch": 1}, [0.1] * 6),
    ({"schedule": "linear", "warmup": 0.3, "weight_decay": 0.1, "clip": 1.0, "micro_batch": 3},
     [0.1 / 3, 0.2 / 3, 0.1, 0.075, 0.05, 0.025]),
])  # fmt: skip
def test_adamw_by_hand(change: dict[str, Any], rates: list[float], tmp_path: Path) -> None:
    run = Run(tmp_path, OPTIONS.model_copy(update=change))
    state = run()
    thetas, found, norms = by_hand(run.options, rates)
    for ours, theirs in zip(run.seen, thetas, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-6)
    assert [facts.loss for facts in run.facts] == pytest.approx(found, rel=1e-5)
    assert [facts.grad_norm for facts in run.facts] == pytest.approx(norms, rel=1e-5)
    assert [facts.lr for facts in run.facts] == pytest.approx(rates)
    assert state.step == 6


def test_clipping_has_something_to_clip() -> None:
    _, _, norms = by_hand(OPTIONS, [0.1] * 6)
    assert max(norms) > 1.0


def test_a_torch_optimizer_moves_the_same(tmp_path: Path) -> None:
    """Against torch's own AdamW, unfused, on whole batches."""
    run = Run(tmp_path, OPTIONS.model_copy(update={"weight_decay": 0.01}))
    run()
    task = Regression()
    optimizer = torch.optim.AdamW(task.params.values(), lr=0.1, weight_decay=0.01, foreach=False, fused=False)
    for step in range(6):
        batch = batches(step // 3)[step % 3]
        optimizer.zero_grad()
        (task.loss(batch) / task.tokens(batch)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert run.task.values() == pytest.approx(task.values(), abs=1e-6)


def test_batches_are_taken_in_the_order_of_their_epoch(tmp_path: Path) -> None:
    run = Run(tmp_path, OPTIONS.model_copy(update={"steps": 7}))
    run()
    assert run.task.asked == [*batches(0), *batches(1), batches(2)[0]]


def test_what_a_step_says(tmp_path: Path) -> None:
    run = Run(tmp_path)
    state = run()
    assert [(facts.step, facts.steps) for facts in run.facts] == [(i, 6) for i in range(1, 7)]
    assert [facts.tokens for facts in run.facts] == [40, 40, 20] * 2
    assert [facts.supervised for facts in run.facts] == [run.task.tokens(batch) for e in (0, 1) for batch in batches(e)]
    assert state.tokens == 200
    assert state.seconds == pytest.approx(sum(facts.seconds for facts in run.facts))
    logged = read_log(tmp_path / "log")
    assert [record["loss"] for record in logged] == [facts.loss for facts in run.facts]
    assert logged[0].keys() == {"step", "steps", "loss", "lr", "grad_norm", "tokens", "supervised", "seconds"}


def test_no_gradient_is_kept_after_a_step() -> None:
    task = Regression()
    optimizer = make_optimizer(task.params, OPTIONS)
    take_step(list(task.params.values()), optimizer, task, [0, 1], 0.1, OPTIONS)
    assert all(param.grad is None for param in task.params.values())


def test_the_optimizer_holds_the_chosen_numbers_alone() -> None:
    task = Regression()
    optimizer = make_optimizer({"w": task.params["w"]}, OPTIONS)
    assert [id(param) for group in optimizer.param_groups for param in group["params"]] == [id(task.params["w"])]


@pytest.mark.parametrize("spoil_at", [0, 4])
def test_a_loss_that_is_no_number_ends_the_run(spoil_at: int, tmp_path: Path) -> None:
    run = Run(tmp_path, OPTIONS.model_copy(update={"save_every": 2}))
    run.task.spoil_at = spoil_at
    with pytest.raises(CtxtuneError, match=f"step {spoil_at + 1}: the loss is nan") as caught:
        run()
    assert "--lr" in str(caught.value.hint)
    assert [record["step"] for record in read_log(tmp_path / "log")] == list(range(1, spoil_at + 1))
    if not spoil_at:
        assert not (tmp_path / "last").exists()
        return
    assert run.state()["loop"]["step"] == 4
    again = Run(tmp_path, run.options)
    again(resume=True)
    straight = Run(tmp_path / "straight", run.options)
    straight()
    assert again.task.values() == straight.task.values()


def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    plain = run.task.loss
    # The square root of zero: the loss is a number, its gradient is not.
    run.task.loss = lambda part: plain(part) + (run.task.params["b"] * 0).abs().sqrt().sum()  # type: ignore[method-assign]
    with pytest.raises(CtxtuneError, match=r"step 1: .*gradient's norm nan"):
        run()


def test_the_best_numbers_come_back(tmp_path: Path) -> None:
    run = Run(tmp_path, OPTIONS.model_copy(update={"eval_every": 1}), [5.0, 3.0, 4.0, 3.0, 6.0, 3.5])
    state = run()
    assert (state.best_step, state.best_loss, state.step) == (2, 3.0, 6)
    assert run.task.values() == run.seen[1] != run.seen[-1]
    logged = [record for record in read_log(tmp_path / "log") if "eval_loss" in record]
    assert [(record["step"], record["eval_loss"]) for record in logged] == [
        (1, 5.0), (2, 3.0), (3, 4.0), (4, 3.0), (5, 6.0), (6, 3.5)
    ]  # fmt: skip
    assert logged[0]["eval_acc"] == 0.5


def test_without_an_evaluation_the_last_numbers_stay(tmp_path: Path) -> None:
    run = Run(tmp_path)
    state = run()
    assert run.task.values() == run.seen[-1]
    assert (state.best_step, state.best_loss) == (0, math.inf)
    assert not (tmp_path / "best").exists()


def test_evaluations_once_an_epoch_and_at_the_end(tmp_path: Path) -> None:
    run = Run(tmp_path, OPTIONS.model_copy(update={"steps": 7}), [3.0, 2.0, 1.0])
    run()
    assert [record["step"] for record in read_log(tmp_path / "log") if "eval_loss" in record] == [3, 6, 7]


def test_an_evaluation_that_falls_on_the_end_is_done_once(tmp_path: Path) -> None:
    run = Run(tmp_path, OPTIONS.model_copy(update={"eval_every": 3}), [3.0, 2.0])
    run()
    assert run.evaluations == []


def test_patience(tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"eval_every": 1, "patience": 2, "steps": 50})
    run = Run(tmp_path, options, [5.0, 3.0, 4.0, 2.0, 2.0, 2.5, 9.9])
    state = run()
    assert (state.step, state.best_step, state.stopped_early) == (6, 4, True)
    assert run.task.values() == run.seen[3]
    assert run.evaluations == [9.9]


def test_patience_that_does_not_run_out(tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"eval_every": 1, "patience": 3})
    state = Run(tmp_path, options, [5.0, 6.0, 6.0, 4.0, 6.0, 6.0])()
    assert (state.step, state.stopped_early) == (6, False)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_evaluations_that_are_no_numbers(loss: float, tmp_path: Path) -> None:
    """Either the last numbers stay, or an error says that the evaluation is broken: never that a file is missing."""
    run = Run(tmp_path, evaluations=[loss, loss])
    said = ""
    try:
        run()
    except CtxtuneError as error:
        said = str(error)
    assert "cannot be read" not in said


def test_checkpoints_every_so_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    write = checkpoint.write_checkpoint

    def spy(*given: Any) -> None:
        saved.append(given[3]["loop"]["step"])
        write(*given)

    monkeypatch.setattr(checkpoint, "write_checkpoint", spy)
    Run(tmp_path / "a", OPTIONS.model_copy(update={"save_every": 2, "steps": 5}))()
    assert saved == [2, 4, 5]
    saved.clear()
    Run(tmp_path / "b")()
    assert saved == [6]


def test_a_slow_run_saves_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    saved: list[int] = []

    def tick(facts: StepFacts) -> None:
        now[0] += 31.0
        if (tmp_path / "last").exists():
            saved.append(run.state()["loop"]["step"])

    run.on_step = tick
    run()
    assert saved == [2, 2, 4, 4]


def test_what_a_checkpoint_holds(tmp_path: Path) -> None:
    run = Run(tmp_path, evaluations=[2.0, 3.0])
    run()
    state = run.state()
    assert state["note"] == "kept"
    assert (state["loop"]["step"], state["loop"]["best_step"], state["loop"]["since_best"]) == (6, 3, 1)


class Killed(BaseException):
    pass


def kill_at(step: int) -> Callable[[StepFacts], None]:
    def kill(facts: StepFacts) -> None:
        if facts.step == step:
            raise Killed

    return kill


@pytest.mark.parametrize("at", [1, 2, 3, 5, 6])
def test_killed_and_resumed(at: int, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"save_every": 2, "eval_every": 1, "schedule": "cosine", "warmup": 0.2})
    evaluations = [5.0, 4.0, 4.5, 3.0, 3.5, 3.2]
    straight = Run(tmp_path / "straight", options, evaluations)
    expected = straight()
    broken = Run(tmp_path / "broken", options, evaluations)
    broken.on_step = kill_at(at)
    with pytest.raises(Killed):
        broken()
    done = (at - 1) // 2 * 2
    again = Run(tmp_path / "broken", options, evaluations[done:])
    state = again(resume=True)
    assert [facts.step for facts in again.facts] == list(range(done + 1, 7))
    assert again.task.values() == straight.task.values()
    assert replace(state, seconds=0.0) == replace(expected, seconds=0.0)
    keys = ("step", "loss", "lr", "grad_norm", "eval_loss")
    logs = [
        [[record.get(key) for key in keys] for record in read_log(tmp_path / name / "log")]
        for name in ("straight", "broken")
    ]
    assert logs[0] == logs[1]


def test_killed_between_the_best_and_the_last(tmp_path: Path) -> None:
    """best.safetensors is newer than the checkpoint then: the steps in between are done again and find the same."""
    options = OPTIONS.model_copy(update={"save_every": 2, "eval_every": 1})
    straight = Run(tmp_path / "straight", options, [5.0, 4.0, 3.0, 6.0, 6.0, 6.0])
    straight()
    broken = Run(tmp_path / "broken", options, [5.0, 4.0, 3.0])
    broken.on_step = kill_at(4)
    with pytest.raises(Killed):
        broken()
    again = Run(tmp_path / "broken", options, [3.0, 6.0, 6.0, 6.0])
    state = again(resume=True)
    assert state.best_step == 3
    assert again.task.values() == straight.task.values() == straight.seen[2]


def test_resuming_a_run_that_had_ended(tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"eval_every": 2})
    run = Run(tmp_path, options, [2.0, 1.0, 3.0])
    run()
    again = Run(tmp_path, options, [])
    state = again(resume=True)
    assert again.facts == []
    assert (state.step, state.best_step) == (6, 4)
    assert again.task.values() == run.task.values() == run.seen[3]


def test_killed_after_it_had_stopped_early(tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"eval_every": 1, "patience": 1})
    evaluations = [2.0, 1.0, 3.0]
    run = Run(tmp_path, options, evaluations)
    run()
    again = Run(tmp_path, options, [])
    state = again(resume=True)
    assert (state.step, state.stopped_early, again.facts) == (3, True, [])
    assert again.task.values() == run.seen[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    straight = Run(tmp_path / "straight")
    straight()
    run = Run(tmp_path / "broken")
    run.on_step = lambda facts: os.kill(os.getpid(), number) if facts.step == 3 else None
    with stop_signals() as run.stop, pytest.raises(Interrupted, match="stopped at step 3 of 6") as caught:
        run()
    assert caught.value.exit_code == 130
    assert "--resume" in str(caught.value.hint)
    again = Run(tmp_path / "broken")
    again(resume=True)
    assert [facts.step for facts in again.facts] == [4, 5, 6]
    assert again.task.values() == straight.task.values()


def test_a_signal_in_the_last_step_comes_too_late(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.on_step = lambda facts: os.kill(os.getpid(), signal.SIGINT) if facts.step == 6 else None
    with stop_signals() as run.stop:
        assert run().step == 6


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    options = OPTIONS.model_copy(update={"save_every": 1})
    straight = Run(tmp_path / "straight", options)
    straight()
    run = Run(tmp_path / "full", options)
    real = os.fsync

    def full(handle: int) -> None:
        if len(run.facts) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no room"):
        run()
    monkeypatch.undo()
    assert run.state()["loop"]["step"] == 3
    again = Run(tmp_path / "full", options)
    again(resume=True)
    assert again.task.values() == straight.task.values()


def test_the_log_is_json(tmp_path: Path) -> None:
    Run(tmp_path, evaluations=[1.0, 2.0])()
    for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
