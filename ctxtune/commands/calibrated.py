"""The story of calibrated choices: ask what asks nothing beside the rows -> score every row in every way -> take one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.commands.channel import question_likelihoods, tail_of
from ctxtune.data.content_free import contextual_rows, domain_rows, premise
from ctxtune.errors import DataError, RecipeError
from ctxtune.evals.calibrate import FREE, LEAST, SKEWED, Unasked, calibrated, counted_shares, distance, shrinkage
from ctxtune.evals.shares import LEAST_KNOWN, estimated_shares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ctxtune.commands.asking import Asking
    from ctxtune.data.encode import EncodeSpec
    from ctxtune.data.read import Row
    from ctxtune.evals.calibrate import Table
    from ctxtune.evals.items import Item
    from ctxtune.methods.fewshot import Groups
    from ctxtune.recipe.schema import Fewshot

_TOGETHER = 32  # choices in one tree behind the premise


@dataclass(frozen=True)
class Beside:
    """What is asked beside the rows: content-free inputs by the name of the calibration and rows whose labels are `known`,
    which stand behind the same demonstrations, where all rows share them; and how likely each choice is behind the premise
    alone."""

    free: dict[str, list[Row]] = field(default_factory=dict)
    premise: dict[str, float] = field(default_factory=dict)
    known: Sequence[Row] = ()

    @property
    def rows(self) -> list[Row]:
        """All that stands behind the demonstrations."""
        return [*(row for some in self.free.values() for row in some), *self.known]


@dataclass(frozen=True)
class Answers:
    """What every row gave, None where it was dropped, `acc_NAME` for each calibration among its scores, and the estimated
    shares of the labels."""

    items: list[Item | None]
    shares: dict[str, float] | None = None


def check_calibration(settings: Fewshot, choices: list[str] | str | None) -> None:
    """Refuse, before anything is loaded, what cannot be known of rows that differ in their choices or demonstrations.

    Raises:
        RecipeError: any calibration of written answers; a mean over rows, or shares, where every row lists its own choices;
            as many shares as no choices; inputs beside the rows, which would be asked again for every row, or too few of
            them; the question as a reply to its answer.
    """
    if settings.chat and settings.calibrate == "channel":
        raise RecipeError(
            "method.calibrate channel: in a chat no answer stands before its question", "leave --chat out"
        )
    if choices is None:
        if settings.calibrate != "none" or settings.prior is not None:
            key = "calibrate" if settings.prior is None else "prior"
            raise RecipeError(f"method.{key}: answers that are written have no calibration", "list data.choices")
    elif isinstance(choices, str):
        if settings.calibrate not in ("none", "pmi") or settings.prior is not None:
            key = "calibrate" if settings.prior is None else "prior"
            raise RecipeError(
                f"method.{key}: rows with choices of their own have no mean over rows", "--calibrate pmi, or none"
            )
    elif isinstance(settings.prior, list) and len(settings.prior) != len(choices):
        raise RecipeError(
            f"method.prior lists {len(settings.prior)} shares, data.choices {len(choices)} choices",
            f"one each, in this order: {', '.join(choices[:8])}{', ...' * (len(choices) > 8)}",
        )
    elif settings.prior == "auto" and settings.held_out < LEAST_KNOWN * len(choices):
        raise RecipeError(
            f"method.prior auto looks at {LEAST_KNOWN} training rows of each of the {len(choices)} choices, and"
            f" method.held_out is {settings.held_out}",
            f"--set method.held_out={LEAST_KNOWN * len(choices)}",
        )
    _check_beside(settings)


def _check_beside(settings: Fewshot) -> None:
    key = "calibrate" if settings.calibrate in FREE else "prior" if settings.prior == "auto" else None
    if settings.by_question and key is not None:
        what = "content-free inputs" if key == "calibrate" else "rows whose labels are known"
        raise RecipeError(
            f"method.{key}: select {settings.select} shows each question other examples, and {what} would have to be asked"
            " behind all of them",
            "--calibrate batch or pmi" if key == "calibrate" else "give the shares: --prior 0.9,0.1",
        )


def unasked(run: Asking, rows: Sequence[Row], settings: Fewshot, known: Sequence[Row] = ()) -> Beside:
    """The inputs that ask nothing, made of the rows, and the choices behind the premise; `known` are asked with them.

    What costs more than a few rows is read only where it is needed: random words, and, where rows have choices of their own,
    these behind the premise, which costs as much again.

    Raises:
        RecipeError: as in `content_free`.
    """
    free = content_free(rows, run.spec, settings)
    text = _premise_of(rows[0], run.spec)
    if text is None or not (isinstance(run.spec.choices, tuple) or settings.calibrate == "pmi"):
        return Beside(free, {}, known)
    return Beside(free, _behind_premise(run, text, _every_choice(run.spec, rows)), known)


def content_free(rows: Sequence[Row], spec: EncodeSpec, settings: Fewshot) -> dict[str, list[Row]]:
    """Rows that ask nothing, by the name of the calibration; needs no model, and neither does `spec`.

    Raises:
        RecipeError: the prompt leaves nothing of what the calibration asks for.
    """
    shared = isinstance(spec.choices, tuple)
    once = shared and not settings.by_question
    names = [name for name in FREE if once and (name == "contextual" or name in _read(settings))]
    free = {name: some for name in names if (some := _content_free(name, rows, spec, settings))}
    if _needed(settings) - free.keys() or (settings.calibrate == "pmi" and _premise_of(rows[0], spec) is None):
        raise RecipeError(
            f"method.calibrate {settings.calibrate}: data.prompt cannot be filled with texts that say nothing",
            "--calibrate batch asks for nothing of the kind" if shared else "--calibrate none",
        )
    if settings.calibrate == "channel":
        tail_of(rows[0], spec.prompt)
    return free


def _needed(settings: Fewshot) -> set[str]:
    """The content-free inputs without which there is no acc."""
    return set(FREE).intersection([settings.calibrate])


def _read(settings: Fewshot) -> set[str]:
    """The content-free inputs that say something of the result: what batch takes for granted is checked against `domain`."""
    return _needed(settings) | ({"domain"} if settings.calibrate == "batch" else set())


def _content_free(name: str, rows: Sequence[Row], spec: EncodeSpec, settings: Fewshot) -> list[Row]:
    made = contextual_rows(rows, spec.prompt) if name == "contextual" else domain_rows(rows, spec.prompt, settings.seed)
    try:
        for row in made:
            spec.render(row)
    except DataError:  # a template that looks into its texts
        return []
    return made


def _every_choice(spec: EncodeSpec, rows: Sequence[Row]) -> Iterator[str]:
    """Each text once."""
    own = (text for row in rows for text in spec.render(row).choices or ())
    return iter(spec.choices if isinstance(spec.choices, tuple) else dict.fromkeys(own))


def _premise_of(row: Row, spec: EncodeSpec) -> str | None:
    try:
        text = premise(row, spec.prompt)
    except DataError:
        return None
    return text if text is None or spec.turns is None else spec.turns.asked(text, row.where)


def _behind_premise(run: Asking, text: str, texts: Iterator[str]) -> dict[str, float]:
    from ctxtune.backend.trunk import Trunk
    from ctxtune.evals.choice import Requests

    spec = run.spec
    found: dict[str, float] = {}
    with Trunk(run.base) as trunk, run.clock.part("premise"):
        while some := list(islice(texts, _TOGETHER)):
            encoded = spec.encode([(text, choice) for choice in some])
            requests = Requests(trunk, [encoded])
            run.counts["read"] += sum(requests.feed.lengths)
            run.counts["whole"] += sum(len(one.ids) for one in encoded)
            found |= {choice: ll for choice, (ll, _) in zip(some, requests.loglikelihoods(), strict=True)}
    return found


def answered(
    run: Asking, rows: list[Row], groups: Groups, beside: Beside, settings: Fewshot, say: Callable[[str], None]
) -> Answers:
    """Ask the rows behind the demonstrations, and what is asked beside them in the same pass; score the choices every way.

    Raises:
        DataError: no content-free input fits, and it is what the calibration goes by.
    """
    given = run.items(rows, groups, beside.rows)
    asked = given[: len(rows)]
    if not isinstance(run.spec.choices, tuple):
        return Answers(
            [item and _own(row, item, run.spec, beside, settings) for row, item in zip(rows, asked, strict=True)]
        )
    rest = iter(given[len(rows) :])
    free = {name: _table([next(rest) for _ in some]) for name, some in beside.free.items()}
    labelled = [item for item in rest if item is not None]
    known = Unasked(
        {name: table for name, table in free.items() if len(table)},
        _premise(run.spec.choices, beside),
        _channel(run, rows, asked, groups) if settings.calibrate == "channel" else None,
    )
    if _needed(settings) - known.free.keys():
        raise DataError("no content-free input fits behind the demonstrations", "fewer --shots, or --calibrate batch")
    if settings.prior == "auto" and not labelled:
        raise DataError("no training row beside the demonstrations fits behind them", "fewer --shots, or give --prior")
    return _shared(asked, run.spec.choices, known, labelled, settings, say)


def _shared(
    items: Sequence[Item | None], choices: Sequence[str], known: Unasked, labelled: Sequence[Item], settings: Fewshot,
    say: Callable[[str], None],
) -> Answers:  # fmt: skip
    """Rows with the same choices, all in one table."""
    lls = _table(items)
    if not len(lls):
        return Answers(list(items))
    estimate = None
    if settings.prior == "auto":
        estimate = estimated_shares(lls, _table(labelled), np.array([item.said["gold"] for item in labelled]))
    prior = _shares(settings, len(choices)) if estimate is None else estimate
    scores = calibrated(lls, known, prior)
    if settings.calibrate != "batch" and not shrinkage(len(lls), len(choices)):
        del scores["batch"]  # of so few rows it would be `none` by another name
    if settings.calibrate == "batch":
        told = settings.prior is not None or "domain" not in scores
        _check_batch(len(lls), None if told else counted_shares(scores["domain"]), prior, choices, say)
    rows = iter([{name: table[at] for name, table in scores.items()} for at in range(len(lls))])
    done = [item and rescored(item, next(rows), settings.calibrate) for item in items]
    return Answers(done, dict(zip(choices, estimate.tolist(), strict=True)) if estimate is not None else None)


def _own(row: Row, item: Item, spec: EncodeSpec, beside: Beside, settings: Fewshot) -> Item:
    """A row with choices of its own, a table by itself; one without has nothing to calibrate."""
    texts = spec.render(row).choices
    if texts is None:
        return item
    scores = calibrated(_table([item]), Unasked(premise=_premise(texts, beside)), shared=False)
    return rescored(item, {name: table[0] for name, table in scores.items()}, settings.calibrate)


def _table(items: Sequence[Item | None]) -> Table:
    return np.array([item.said["ll"] for item in items if item is not None], dtype=np.float64)


def _premise(texts: Sequence[str], beside: Beside) -> Table | None:
    return np.array([beside.premise[text] for text in texts]) if beside.premise else None


def _channel(run: Asking, rows: Sequence[Row], items: Sequence[Item | None], groups: Groups) -> Table:
    """How likely the questions are behind the choices, of the rows that were not dropped."""
    kept = {id(row) for row, item in zip(rows, items, strict=True) if item is not None}
    asked = {shots: [row for row in some if id(row) in kept] for shots, some in groups.items()}
    assert isinstance(run.spec.choices, tuple)
    found = question_likelihoods(run, asked, run.spec.choices)
    return np.array([found[id(row)] for row in rows if id(row) in kept], dtype=np.float64)


def _shares(settings: Fewshot, choices: int) -> Table:
    given = np.array(settings.prior if isinstance(settings.prior, list) else [1.0] * choices)
    shares: Table = given / given.sum()
    return shares


def rescored(item: Item, scores: dict[str, Table], chosen: str) -> Item:
    """The row with all its scores; what no calibration has touched keeps its hit."""
    hits = {name: float(int(row.argmax()) == item.said["gold"]) for name, row in scores.items()}
    hits["none"] = item.scores["acc"]
    known = {**item.scores, "acc": hits[chosen], **{f"acc_{name}": hit for name, hit in hits.items()}}
    answer = int(np.argmax(item.said["ll"] if chosen == "none" else scores[chosen]))
    told = {"answer": answer, "calibrated": {name: row.tolist() for name, row in scores.items()}}
    return replace(item, scores=known, said={**item.said, **told})


def _check_batch(
    rows: int, counted: Table | None, prior: Table, choices: Sequence[str], say: Callable[[str], None]
) -> None:
    """Say where the mean over the rows does not tell what the model prefers, by the answers that were `counted` without it."""
    if rows < LEAST * len(choices):
        least = LEAST * len(choices)
        say(f"batch calibration of {len(choices)} choices begins at {least} rows: with {rows} it changes nothing")
    elif counted is not None and distance(counted, prior) > SKEWED:
        most = int((counted - prior).argmax())
        say(
            f"batch calibration takes {prior[most]:.0%} of the rows for {choices[most]!r}, by random words it is"
            f" {counted[most]:.0%}: if the labels are skewed, give their shares with --prior"
        )
