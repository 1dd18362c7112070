"""Several draws of demonstrations, each asked the same rows: how much of a result is the luck of the draw."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxtune.commands.calibrated import answered
from ctxtune.errors import DataError
from ctxtune.evals.calibrate import log_shares, parted
from ctxtune.evals.items import Item, averaged, summarise
from ctxtune.evals.overlap import total_scores
from ctxtune.evals.reliability import calibration_error, confusion
from ctxtune.evals.spread import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ctxtune.commands.asking import Asking
    from ctxtune.commands.calibrated import Answers, Beside
    from ctxtune.data.read import Row
    from ctxtune.methods.fewshot import Groups
    from ctxtune.recipe.schema import Fewshot


@dataclass(frozen=True)
class Draw:
    """One choice of demonstrations, and what the rows gave behind it: `total` is what belongs to all of them together, with its
    signature, `cut` how many were dropped, cut or not ended."""

    seed: int
    groups: Groups
    answers: Answers
    cut: dict[str, int]
    total: tuple[dict[str, float], str | None]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What there is to say of this draw alone."""
        items = [item for item in self.answers.items if item is not None]
        scores, calibrations = parted(summarise(items))
        return {
            "seed": self.seed,
            "shots": list(dict.fromkeys(shot.where for shots in self.groups for shot in shots)),
            "scores": {**self.total[0], **scores, **self.cut},
            "calibrations": {name: {**found, "ece": _error(items, name)} for name, found in calibrations.items()},
            "label_shares": self.answers.shares,
        }

    def confused(self, labels: int) -> NDArray[np.int64]:
        """How often each label was taken for which, (k, k)."""
        said = [item.said for item in self.answers.items if item is not None]
        return confusion([one["gold"] for one in said], [one["answer"] for one in said], labels)

    def fewer(self, shots: int) -> int:
        """The rows that were asked behind fewer demonstrations than that."""
        return sum(len(rows) for some, rows in self.groups.items() if len(some) < shots)


def draw(
    run: Asking,
    rows: list[Row],
    seed: int,
    groups: Groups,
    beside: Beside,
    settings: Fewshot,
    say: Callable[[str], None],
) -> Draw:
    """Ask the rows behind demonstrations that were drawn. What is said of the rows is said once, with the first draw."""
    before = run.counts.copy()
    answers = answered(run, rows, groups, beside, settings, say if seed == settings.seed else _unsaid)
    names = ("dropped", "truncated") if run.accepted is None else ("dropped", "truncated", "unfinished")
    total = total_scores([item for item in answers.items if item is not None], run.recipe.score)
    return Draw(seed, groups, answers, {name: run.counts[name] - before[name] for name in names}, total)


def _unsaid(_: str) -> None:
    """A note that was given before."""


def row_by_row(draws: Sequence[Draw]) -> list[Item]:
    """The rows that every draw has scored, each with the means of its scores over the draws.

    Raises:
        DataError: there is none.
    """
    rows = zip(*(draw.answers.items for draw in draws), strict=True)
    items = [averaged(kept) for row in rows if len(kept := [item for item in row if item is not None]) == len(draws)]
    if not items:
        raise DataError("all eval rows were too long and dropped", "raise data.max_length")
    return items


def facts_of(draws: Sequence[Draw], items: Sequence[Item], labels: Sequence[str] | None) -> dict[str, Any]:
    """The result: scores are means over rows of what each gave on average; `spread` is that of the draws, if there are some.

    `labels` are the choices, where all rows have the same.
    """
    scores, calibrations = parted(summarise(items))
    each, (total, signature) = [draw.facts for draw in draws], draws[0].total
    total = {name: sum(one["scores"][name] for one in each) / len(each) for name in total}
    cut = {name: max(draw.cut[name] for draw in draws) for name in draws[0].cut}
    cut["dropped"] = len(draws[0].answers.items) - len(items)
    facts = {
        "scores": {**total, **scores, **cut},
        **({"signature": signature} if signature else {}),
        "calibrations": {name: {**calibrations[name], **_over_draws(each, name)} for name in calibrations},
        "confusion": _confusion(draws, labels) if labels else None,
        "label_shares": each[0]["label_shares"],
        "shots": list(dict.fromkeys(where for one in each for where in one["shots"])),
        "prefixes": sum(len(draw.groups) for draw in draws),
    }
    if len(draws) == 1:
        return facts
    names = [name for name in (*total, *items[0].scores) if f"{name}_stderr" in total | scores and name != "loss"]
    return {**facts, "spread": {name: _spread([one["scores"] for one in each], name) for name in names}, "draws": each}


def _over_draws(draws: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Of a calibration: the mean of its error over the draws, and how far apart they lie, if there are some."""
    found = [one["calibrations"][name] for one in draws]
    error = {"ece": sum(one["ece"] for one in found) / len(found)}
    return {**error, "spread": _spread(found, "acc")} if len(found) > 1 else error


def _confusion(draws: Sequence[Draw], labels: Sequence[str]) -> dict[str, Any]:
    """All draws together: a row for each right label, a column for each answer."""
    counts = sum((draw.confused(len(labels)) for draw in draws), np.zeros((len(labels), len(labels)), np.int64))
    return {"labels": list(labels), "counts": counts.tolist()}


def _error(items: Sequence[Item], name: str) -> float:
    """The calibration error of what a calibration says of the choices."""
    sure = [float(np.exp(log_shares(np.array(item.said["calibrated"][name]))).max()) for item in items]
    return calibration_error(sure, [item.scores[f"acc_{name}"] for item in items])


def _spread(draws: Sequence[dict[str, float]], name: str) -> dict[str, float]:
    return spread([one[name] for one in draws], [one[f"{name}_stderr"] for one in draws])
