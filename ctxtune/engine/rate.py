"""`lr: auto`: a range test on the numbers that will be trained, by short trial runs.

For each of a ladder of rates the trained numbers start anew, take a few steps under a whole schedule in miniature, and
are judged on training rows that the trials never see. The rate with the lowest held-out loss wins; among rates within one
standard error of it (paired, over the held-out rows) the lowest is taken, because a lower rate forgets less.
The ladder is climbed upwards and left once the loss is far above the best.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ctxtune.data.batch import length_buckets
from ctxtune.engine.loop import take_step
from ctxtune.engine.optimizer import make_optimizer, move
from ctxtune.engine.schedule import factor
from ctxtune.engine.schedule_free import end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import nn

    from ctxtune.engine.loop import Objective, Penalty
    from ctxtune.engine.optimizer import Shares
    from ctxtune.recipe.schema import Train

LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
_HELD_OUT = 128  # rows, at most an eighth of all
LEAST_ROWS = 8
"""of fewer an eighth is not one: nothing is tried then, and the rate is UNTRIED"""
UNTRIED = 1e-4


@dataclass(frozen=True)
class Trials:
    """The rates to try, upwards, the steps of each trial, and the rows that are held out of all of them.

    Rates `below` those are tried as well, downwards, as long as the lowest one so far is the best.
    """

    rates: Sequence[float]
    steps: int
    held: int
    below: Sequence[float] = ()


@dataclass(frozen=True)
class RateTest:
    """The rate found, the held-out loss (nats an example) of every rate tried, and what it cost.

    `losses` are those of the best rate by example: of two tests on the same rows, they can be compared in pairs.
    """

    lr: float
    tried: tuple[tuple[float, float], ...]
    losses: tuple[float, ...]
    steps: int
    seconds: float

    @property
    def loss(self) -> float:
        """The lowest held-out loss."""
        return _mean(self.losses)


def find_rate(
    params: Mapping[str, nn.Parameter],
    objective: Objective,
    lengths: Sequence[int],
    steps: int,
    shares: Shares,
    options: Train,
    on_trial: Callable[[float, float], None] = lambda lr, loss: None,
    trials: Trials | None = None,
    ladder: Sequence[float] = LADDER,
    penalty: Penalty | None = None,
) -> RateTest:
    """Try every rate of the ladder from where the parameters stand now; afterwards they stand there again.

    `lengths` are the tokens of each example: the trials' batches are filled like the run's. steps is the length of the run
    to come: all trials together take about as many steps as it. What moves in a trial, moves as in the whole run: a trial
    goes through the run's epochs in its own few steps.
    """
    begun = time.perf_counter()
    trials = trials or _about_a_run(ladder, len(lengths), steps)
    start = {name: param.detach().clone() for name, param in params.items()}
    shuffled = list(range(len(lengths)))
    random.Random(f"rate {options.seed}").shuffle(shuffled)
    held = shuffled[: trials.held]
    seen = shuffled[len(held) :] or held
    batches = _batches(seen, lengths, trials.steps, options)
    per_epoch = math.ceil(len(lengths) / options.batch)
    moves = [shares(min(step, steps - 1), step * steps // (trials.steps * per_epoch)) for step in range(trials.steps)]
    falls = "constant" if options.optimizer == "schedule_free" else "linear"
    results: list[tuple[float, list[float]]] = []

    def trial(lr: float) -> tuple[float, list[float]]:
        rates = [lr * factor(step, len(batches), falls, 0.1) for step in range(len(batches))]
        take_steps(params, make_optimizer(params, options), objective, batches, moves, rates, options, penalty)
        losses = _losses(objective, held)
        _restore(params, start)
        on_trial(lr, _mean(losses))
        return lr, losses

    for lr in trials.rates:
        results.append(trial(lr))
        if _hopeless(results):
            break
    for lr in trials.below:
        if min(results, key=_loss) is not results[0]:
            break
        results.insert(0, trial(lr))
    return RateTest(
        choose_rate(results),
        tuple((lr, _mean(losses)) for lr, losses in results),
        tuple(min(results, key=_loss)[1]),
        trials.steps * len(results),
        time.perf_counter() - begun,
    )


def trial_steps(ladder: Sequence[float], rows: int, steps: int) -> int:
    """How many steps all trials for a run of so many take, at most; of too few rows there are none."""
    return _about_a_run(ladder, rows, steps).steps * len(ladder) if rows >= LEAST_ROWS else 0


def _about_a_run(ladder: Sequence[float], rows: int, steps: int) -> Trials:
    """The whole ladder, in about as many steps as the run takes."""
    return Trials(ladder, max(8, min(64, steps // len(ladder))), max(1, min(_HELD_OUT, rows // 8)))


def choose_rate(results: Sequence[tuple[float, Sequence[float]]]) -> float:
    """The lowest rate whose loss is within one standard error, paired by example, of the lowest loss."""
    _, best = min(results, key=_loss)
    for lr, losses in results:
        gap, stderr = paired_gap(losses, best)
        if gap <= stderr:
            return lr
    raise ValueError("no rate gave a loss")


def paired_gap(losses: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """How much higher some losses are than others of the same examples, in the mean, and the standard error of that."""
    gaps = [a - b for a, b in zip(losses, others, strict=True)]
    return _mean(gaps), _standard_error(gaps)


def _batches(seen: Sequence[int], lengths: Sequence[int], steps: int, options: Train) -> list[list[int]]:
    """The same batches for every rate, from as many passes as it takes."""
    found: list[list[int]] = []
    for epoch in range(steps):
        if len(found) < steps:
            buckets = length_buckets([lengths[i] for i in seen], options.batch, options.seed, epoch)
            found += [[seen[place] for place in bucket] for bucket in buckets]
    return found[:steps]


def take_steps(
    params: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batches: Iterable[list[int]],
    moves: Sequence[Mapping[str, float]],
    rates: Sequence[float],
    options: Train,
    penalty: Penalty | None = None,
) -> None:
    """A trial: steps on some batches, each with the shares of what moves then and its rate. Nothing of it is kept or told."""
    for batch, shares, lr in zip(batches, moves, rates, strict=True):
        take_step(move(params, optimizer, shares), optimizer, objective, batch, lr, options, penalty)
    end(optimizer)


def _losses(objective: Objective, held: Sequence[int]) -> list[float]:
    """The loss of each held-out example; a rate that blew up counts as infinitely bad."""
    return [loss if math.isfinite(loss) else 1e9 for loss in objective.losses(held)]


def _restore(params: Mapping[str, nn.Parameter], start: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, param in params.items():
            param.copy_(start[name])


def _hopeless(results: Sequence[tuple[float, list[float]]]) -> bool:
    means = [_mean(losses) for _, losses in results]
    return len(means) >= 3 and means[-1] > 1.5 * min(means) and means[-1] > means[-2]


def _loss(result: tuple[float, Sequence[float]]) -> float:
    return _mean(result[1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _standard_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = _mean(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
