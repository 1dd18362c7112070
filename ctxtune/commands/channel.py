"""Channel scoring: how likely the question is behind each label, not each label behind the question (Min et al. 2022).

    direct    Review: a fine film \n Sentiment: | positive            log p(y|x)
    channel   Sentiment: positive \n | Review: a fine film            log p(x|y)

A prompt is cut behind its last text, and what is left behind it, its premise, comes first, with the label; demonstrations are
turned round alike. Every token of every question is asked for once a label: that costs labels x tokens rows of the head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxtune.data.content_free import premise
from ctxtune.data.encode import TooLong, chunks, encode_pairs, fit
from ctxtune.data.prompt import join
from ctxtune.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.asking import Asking
    from ctxtune.data.encode import Encoded, EncodeSpec
    from ctxtune.data.read import Row
    from ctxtune.data.render import Template
    from ctxtune.methods.fewshot import Groups, Shot

_LINE = "\n"  # between the label and the question


def question_likelihoods(run: Asking, groups: Groups, choices: Sequence[str]) -> dict[int, list[float]]:
    """Of each row, by its id, how likely its question is behind each choice, in nats.

    Raises:
        RecipeError: the prompt has no last text behind which it could be cut.
        DataError: a question is too long.
    """
    from ctxtune.backend.trunk import Trunk

    found: dict[int, list[float]] = {}
    with Trunk(run.base) as trunk:
        for shots, rows in groups.items():
            if not rows:
                continue
            tail = tail_of(rows[0], run.spec.prompt)
            front = run.spec.instruction + "".join(_turned(shot, tail, run) for shot in shots)
            starts = [front + join(tail, run.spec.delimiter, choice) for choice in choices]
            with run.clock.part("encode"):
                requests = [one for chunk in chunks(rows) for one in _requests(chunk, starts, tail, run.spec)]
            found |= zip(map(id, rows), _scored(run, trunk, requests), strict=True)
    return found


def tail_of(row: Row, prompt: Template) -> str:
    """What of the prompt comes first, with the label.

    Raises:
        RecipeError: it has no text behind which it could be cut.
    """
    tail = premise(row, prompt)
    if tail is None:
        raise RecipeError("method.calibrate channel: data.prompt has no text to stand behind a label")
    return tail


def _turned(shot: Shot, tail: str, run: Asking) -> str:
    """A demonstration that begins with its label."""
    separator = run.recipe.data.separator
    return join(tail, run.spec.delimiter, shot.answer) + _LINE + _head(shot.question, tail) + separator


def _head(question: str, tail: str) -> str:
    return question.removesuffix(tail).rstrip()


def _requests(rows: Sequence[Row], starts: Sequence[str], tail: str, spec: EncodeSpec) -> Iterator[list[Encoded]]:
    """Of each row, its question behind each of the starts."""
    pairs = [(start, _head(spec.prompt.render(row), tail)) for row in rows for start in starts]
    whole = iter(encode_pairs(spec.tokenizer, pairs, delimiter=_LINE, kind="causal"))
    for row in rows:
        try:
            yield [fit(next(whole), spec.max_length, truncate=spec.on_long == "truncate") for _ in starts]
        except TooLong as error:
            hint = "fewer --shots, or data.on_long: truncate"
            raise DataError(f"{row.where}: behind its label: {error}", hint) from error


def _scored(run: Asking, trunk: Trunk, requests: Sequence[Sequence[Encoded]]) -> list[list[float]]:
    from ctxtune.evals.choice import Requests, common_prefix

    prefix = run.prefix(trunk, common_prefix(requests), len(requests))
    with run.clock.part("score"):
        asked = Requests(trunk, requests, prefix)
        run.counts.update(read=sum(asked.feed.lengths), whole=sum(len(one.ids) for row in requests for one in row))
        lls = iter(asked.loglikelihoods())
        return [[next(lls)[0] for _ in row] for row in requests]
