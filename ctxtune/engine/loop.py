"""The only training loop: it knows numbers that move and what pulls them, and neither a method nor a model.

Each step takes one batch of examples, in parts that fit the memory:

    g = (sum over parts of grad of the parts' summed loss) / supervised tokens of the batch

so that 8 parts of 1 and 1 part of 8 give the same gradient. What the numbers themselves cost is added to it once. Then the
gradient is clipped, the rate set, AdamW steps. Of several processes each takes a share of the batch (shared.py), one writes.
What moves may change from step to step (optimizer.py): the course says so.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ctxtune.backend.ranks import ALONE
from ctxtune.backend.sharding import whole
from ctxtune.engine import checkpoint
from ctxtune.engine.optimizer import make_optimizer, move, set_rate
from ctxtune.engine.schedule import factor
from ctxtune.engine.schedule_free import averaged, end
from ctxtune.engine.shared import shared
from ctxtune.errors import CtxtuneError, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from ctxtune.backend.ranks import Ranks
    from ctxtune.engine.alike import Alike
    from ctxtune.engine.log import RunLog
    from ctxtune.engine.optimizer import Shares
    from ctxtune.engine.stop import Stop
    from ctxtune.recipe.schema import Train

    Backward = Callable[[int, int, int | None], None]
    """(step, number, rows): the backward pass of the loss on some batches of the run from a step on"""

# Seconds between checkpoints where the recipe names no steps: what a killed run loses at most.
_SAVE_SECONDS = 60.0


class Objective(Protocol):
    """What pulls: a summed loss over parts of a batch, how many tokens it sums over, and each example's own share."""

    def tokens(self, batch: Sequence[int]) -> int: ...
    def parts(self, batch: Sequence[int], rows: int | None) -> list[list[int]]: ...
    def loss(self, part: Sequence[int]) -> Tensor: ...
    def losses(self, batch: Sequence[int]) -> list[float]: ...


class Regrow(Protocol):
    """What changes where the numbers belong that move, after some steps; it reads gradients of its own by `backward`."""

    def after(self, step: int, optimizer: torch.optim.Optimizer, backward: Backward, clip: float | None) -> None: ...
    def state(self) -> Mapping[str, Tensor]: ...
    def restore(self, state: Mapping[str, Tensor]) -> None: ...


class Penalty(Protocol):
    """What numbers cost beside the loss of the rows: `pull` adds its gradient once a step, `after` follows the step.

    `cut` is the share of its gradient that clipping left of the step.
    """

    def pull(self) -> None: ...
    def after(self, optimizer: torch.optim.Optimizer, cut: float) -> None: ...


class Guard(Protocol):
    """What holds back: a divergence from the base, which is to stay within a budget; in each step it has a weight."""

    @property
    def budget(self) -> float: ...
    def pull(self, step: int, weight: float) -> float: ...
    def ascend(self, weight: float, kl: float, before: float) -> float: ...


@dataclass(frozen=True)
class Course:
    """The way through the data: `steps` steps at peak rate `lr`; batches(epoch) are lists of example indices.

    shares(step, epoch) are the numbers that move in a step, each with its share of the rate. Where these numbers belong may
    change: `regrow` says so. Beside a `guard` a step follows its gradient as well. Muon turns `matrices`, and rows of what is
    `alike` learn together.
    """

    steps: int
    lr: float
    batches: Callable[[int], Sequence[list[int]]]
    shares: Shares
    penalty: Penalty | None = None
    regrow: tuple[Regrow, Backward] | None = None
    guard: Guard | None = None
    matrices: Collection[str] = ()
    alike: Mapping[str, Alike] = field(default_factory=dict)

    def after(self, step: int, optimizer: torch.optim.Optimizer, clip: float | None) -> None:
        """What is changed after a step, counted from 1."""
        if self.regrow is not None:
            regrow, backward = self.regrow
            regrow.after(step, optimizer, backward, clip)

    @property
    def beside(self) -> Mapping[str, Tensor]:
        """Where the numbers belong now: what a checkpoint holds beside them."""
        return self.regrow[0].state() if self.regrow is not None else {}

    @property
    def restore(self) -> Callable[[Mapping[str, Tensor]], None] | None:
        """Takes that up again."""
        return self.regrow[0].restore if self.regrow is not None else None


@dataclass
class State:
    """What the loop counts. Losses are nats a supervised token; `best_over` is how far the best step is above the budget."""

    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    best_over: float = math.inf
    guard_weight: float = 0.0
    guard_kl: float = 0.0
    since_best: int = 0
    seconds: float = 0.0
    tokens: int = 0
    stopped_early: bool = False


@dataclass(frozen=True)
class StepFacts:
    """One step, as the log and the progress bar see it. `seconds` is what this step took; KL and its weight are the guard's."""

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    supervised: int
    seconds: float
    guard_kl: float | None = None
    guard_weight: float | None = None


@dataclass(frozen=True)
class Desk:
    """Where a run keeps its files: `last` and `best` checkpoints, and the log. One of its processes writes them, all read."""

    last: Path
    best: Path
    log: RunLog
    ranks: Ranks = ALONE

    def note(self, record: dict[str, Any]) -> None:
        """A line of the log."""
        if self.ranks.leads:
            self.log.add(record)

    def keep(
        self, params: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, state: Mapping[str, Any],
        beside: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        """The last state."""
        checkpoint.write_checkpoint(self.last, params, optimizer, state, beside, self.ranks)

    def keep_best(
        self, params: Mapping[str, nn.Parameter], numbers: Mapping[str, Any], beside: Mapping[str, Tensor]
    ) -> None:
        """The best numbers so far."""
        checkpoint.write_params(self.best, params, numbers, beside, self.ranks)

    def take_best(self, params: Mapping[str, nn.Parameter], restore: Any) -> dict[str, Any]:
        """Put the best numbers back."""
        self.ranks.meet()
        return checkpoint.read_params(self.best, params, self.last, restore)


def take_step(
    params: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batch: Sequence[int],
    lr: float,
    options: Train,
    penalty: Penalty | None = None,
) -> tuple[float, float]:
    """One optimiser step at rate `lr`; returns the rows' loss in nats a token and the gradient's norm before clipping."""
    tokens = objective.tokens(batch)
    total = 0.0
    for part in objective.parts(batch, options.micro_batch):
        loss = objective.loss(part) / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    if penalty is not None:
        penalty.pull()
    limit = options.clip if options.clip is not None else math.inf
    norm = float(whole(torch.nn.utils.clip_grad_norm_(params, limit)))
    set_rate(optimizer, lr)
    optimizer.step()
    if penalty is not None:
        penalty.after(optimizer, min(1.0, limit / norm) if norm else 1.0)
    optimizer.zero_grad(set_to_none=True)
    return total, norm


def fit(
    params: Mapping[str, nn.Parameter],
    objective: Objective,
    course: Course,
    options: Train,
    desk: Desk,
    stop: Stop,
    *,
    evaluate: Callable[[], Mapping[str, float]] | None,
    on_step: Callable[[StepFacts], None],
    token_count: Callable[[Sequence[int]], int],
    notes: Mapping[str, object],
    begun: Mapping[str, float] | None = None,
) -> State:
    """Train until the course or the patience ends; the parameters then hold the best numbers if there was an evaluation.

    `evaluate` returns at least `loss`, which chooses the best, beside a guard also `guard_kl`: steps within its budget come
    first. `begun` is what it said before the first step, where that may be the best of all. `notes` are kept in every
    checkpoint. Where `desk.last` exists the run goes on from there.

    Raises:
        Interrupted: a signal came; a checkpoint was written.
        CtxtuneError: the loss is no longer a number; the last checkpoint is from before.
    """
    optimizer = make_optimizer(params, options, course.matrices, course.alike)
    state = State()
    if checkpoint.exists(desk.last):
        state = State(**checkpoint.read_checkpoint(desk.last, params, optimizer, course.restore)["loop"])
    elif evaluate and begun:
        state.best_over, state.best_loss = _rank(begun, course.guard)
        desk.keep_best(params, {"step": 0, **begun}, course.beside)
    per_epoch = len(course.batches(0))
    saved_at, ranks, pull = time.monotonic(), desk.ranks, objective
    with stop.deferred():
        while state.step < course.steps and not state.stopped_early:
            epoch, place = divmod(state.step, per_epoch)
            batch = course.batches(epoch)[place]
            moving = move(params, optimizer, course.shares(state.step, epoch))
            pull = shared(objective, moving, ranks, pull)
            facts = _advance(moving, optimizer, pull, course, options, state, batch, token_count(batch), ranks)
            desk.note({key: value for key, value in asdict(facts).items() if value is not None})
            on_step(facts)
            course.after(state.step, optimizer, options.clip)
            ends = state.step == course.steps
            if evaluate and (ends or state.step % (options.eval_every or per_epoch) == 0):
                with averaged(optimizer):
                    _judge(evaluate(), state, params, desk, options, course)
            stopping, due = _heard(stop, state.step, options, saved_at, ranks)
            if ends or state.stopped_early or stopping or due:
                desk.keep(params, optimizer, {"loop": asdict(state), **notes}, course.beside)
                saved_at = time.monotonic()
            if stopping and not ends:
                raise Interrupted(
                    f"stopped at step {state.step} of {course.steps}", "the same command with --resume goes on"
                )
    end(optimizer)
    if evaluate and state.best_step != state.step and (begun or state.best_step):
        _name_best(state, desk.take_best(params, course.restore))
    return state


def _name_best(state: State, kept: Mapping[str, Any]) -> None:
    """Count as best what was kept as that: a later step than was counted, if a run died between keeping and counting."""
    state.best_step, state.best_loss = kept["step"], kept["loss"]


def _advance(
    moving: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    course: Course,
    options: Train,
    state: State,
    batch: Sequence[int],
    tokens: int,
    ranks: Ranks,
) -> StepFacts:
    """Take the next step and count it; a guard's gradient is there before the objective's is added.

    Raises:
        CtxtuneError: the loss or the gradient is no longer a number.
    """
    begun = time.perf_counter()
    lr = course.lr * factor(state.step, course.steps, options.schedule, options.warmup)
    guard = course.guard
    held = (guard.pull(state.step, state.guard_weight), state.guard_weight) if guard is not None else (None, None)
    own, norm = take_step(moving, optimizer, objective, batch, lr, options, course.penalty)
    loss = ranks.summed([own])[0] / ranks.size
    if not math.isfinite(loss) or not math.isfinite(norm):
        problem = f"step {state.step + 1}: the loss is {loss} and the gradient's norm {norm} at rate {lr:.2g}"
        raise CtxtuneError(problem, "try a smaller --lr")
    if guard is not None and held[0] is not None:
        state.guard_weight = guard.ascend(state.guard_weight, held[0], state.guard_kl)
        state.guard_kl = held[0]
    seconds = time.perf_counter() - begun
    state.step += 1
    state.tokens += tokens
    state.seconds += seconds
    return StepFacts(state.step, course.steps, loss, lr, norm, tokens, objective.tokens(batch), seconds, *held)


def _heard(stop: Stop, step: int, options: Train, saved_at: float, ranks: Ranks) -> tuple[bool, bool]:
    """Whether any of the processes is asked to stop, and whether a checkpoint is due.

    Read once a step: a signal that comes later waits for the next one.
    """
    asked = stop.requested
    stopping, due = ranks.summed([asked, not asked and _save_due(step, options, saved_at)])
    return bool(stopping), bool(due)


def _save_due(step: int, options: Train, saved_at: float) -> bool:
    if options.save_every is not None:
        return step % options.save_every == 0
    return time.monotonic() - saved_at > _SAVE_SECONDS


def _rank(numbers: Mapping[str, float], guard: Guard | None) -> tuple[float, float]:
    """What makes one step better than another: how far it is above a guard's budget, and among those within it the loss."""
    above = numbers["guard_kl"] - guard.budget if guard is not None else 0.0
    return math.inf if math.isnan(above) else max(0.0, above), numbers["loss"]


def _judge(
    numbers: Mapping[str, float], state: State, params: Mapping[str, nn.Parameter], desk: Desk, options: Train,
    course: Course,
) -> None:  # fmt: skip
    """Log an evaluation; keep the numbers if they are the best so far, else count towards the patience."""
    desk.note({"step": state.step, **{f"eval_{key}": value for key, value in numbers.items()}})
    rank = _rank(numbers, course.guard)
    if rank < (state.best_over, state.best_loss) and math.isfinite(numbers["loss"]):
        state.best_step, state.since_best = state.step, 0
        state.best_over, state.best_loss = rank
        desk.keep_best(params, {"step": state.step, **numbers}, course.beside)
        return
    state.since_best += 1
    state.stopped_early = options.patience is not None and state.since_best >= options.patience
