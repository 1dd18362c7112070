"""Free answers scored by what the model writes: prompts are continued and compared with what is accepted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ctxtune.commands import prepare
from ctxtune.data.hash import sha256_fields
from ctxtune.data.render import compile_template
from ctxtune.errors import DataError, RecipeError
from ctxtune.evals.items import Item, summarise
from ctxtune.evals.overlap import row_scores, total_scores
from ctxtune.recipe.pattern import last_match

if TYPE_CHECKING:
    from ctxtune.backend.decode import Written
    from ctxtune.backend.load import Base
    from ctxtune.data.encode import ChoiceSet, Encoded
    from ctxtune.data.read import Row
    from ctxtune.recipe.schema import Recipe
    from ctxtune.recipe.written import Score

MOST_ANSWERS = 1_000

Write = Callable[[Sequence[Sequence[int]]], "list[Written]"]


def accepted_answers(recipe: Recipe, rows: prepare.Source | None) -> dict[str, list[str]] | None:
    """What each row's answer is compared with, by the row's hash; None where answers are scored by their likelihood.

    Of a chat that is its last reply, which only the chat template tells from its frame: it is not listed here.

    Raises:
        RecipeError: `score` asks for what choices and running text do not have, or for a library that is not installed.
        DataError: a row lists no answers; nothing could be right in the eyes of the metric.
    """
    score, data = recipe.score, recipe.data
    if score.metric == "likelihood":
        return None
    row_scores(score)
    running = rows is None or data.text is not None
    if rows is None or running or data.choices is not None:
        what = "a running text" if running else "a row with choices"
        raise RecipeError(
            f"score.metric is {score.metric}, but {what} has no answer that is written",
            "leave --metric out" if running else "leave data.choices out for free answers, or --metric",
        )
    if data.messages is not None and score.references is None:
        return {}
    answer = compile_template(data.answer, "data.answer")
    listed = compile_template(score.references, "score.references") if score.references else None
    right = [[answer.render(row)] if listed is None else _texts(row, listed.value(row)) for row in rows.rows]
    _check_reachable(rows.rows, right, score)
    return {sha256_fields(row.fields): wanted for row, wanted in zip(rows.rows, right, strict=True)}


def _texts(row: Row, value: object) -> list[str]:
    where = f"{row.where}: score.references"
    if not isinstance(value, list | tuple):
        raise DataError(f"{where} gives {type(value).__name__}, not a list", 'write "answers": ["one", "another"]')
    if not 1 <= len(value) <= MOST_ANSWERS:
        raise DataError(f"{where} gives a list of {len(value):,}, accepted answers are 1 to {MOST_ANSWERS:,}")
    for one in value:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise DataError(f"{where} lists {'null' if one is None else type(one).__name__}, not a text")
    return [str(one) for one in value]


def written_items(
    base: Base, asked: ChoiceSet, recipe: Recipe, accepted: dict[str, list[str]], write: Write
) -> tuple[list[Item], dict[str, float]]:
    """Every row's answer, written and scored; and how many rows were dropped, cut, or had not ended at the last token.

    `write` continues prompts, given as tokens.

    Raises:
        DataError: every row was dropped; nothing that a chat replies could be right in the eyes of the metric.
        ModelError: the model cannot continue a text.
    """
    from ctxtune.backend.decode import require_causal

    require_causal(base)
    if not asked.requests:
        raise DataError("all eval rows were too long and dropped", "raise data.max_length")
    tokenizer, (prompts, answers) = base.tokenizer, zip(*(last_answer(one) for (one,) in asked.requests), strict=True)
    names, scores = [sha256_fields(row.fields) for row in asked.row_of], row_scores(recipe.score)
    right = [
        accepted.get(name) or [tokenizer.decode(answer, skip_special_tokens=True)]
        for name, answer in zip(names, answers, strict=True)
    ]
    if not accepted:
        _check_reachable(asked.row_of, right, recipe.score)
    items, unfinished = [], 0
    for row, name, wanted, written in zip(asked.row_of, names, right, write(prompts), strict=True):
        answered = answer_in(written.text, recipe.score.extract, row)
        said = {"text": written.text, "answer": answered, "accepted": wanted, "reason": written.reason}
        items.append(Item(name, row.line, scores(answered, wanted), said))
        unfinished += written.reason in ("length", "context")
    return items, {"dropped": asked.dropped, "truncated": asked.truncated, "unfinished": unfinished}


def written_scores(
    base: Base, rows: Sequence[Row], spec: prepare.Spec, recipe: Recipe, accepted: dict[str, list[str]], write: Write
) -> tuple[dict[str, float], list[Item], str | None]:
    """The same, and the scores of all rows together: scores, rows, and what else the scores depend on."""
    items, counts = written_items(base, prepare.to_score(rows, spec), recipe, accepted, write)
    total, signature = total_scores(items, recipe.score)
    return {**total, **summarise(items), **counts}, items, signature


def _check_reachable(rows: Sequence[Row], right: Sequence[Sequence[str]], score: Score) -> None:
    """Refuse rows that get nothing even for an accepted answer: rouge-score reads no Chinese, a text may hold no number."""
    scores = row_scores(score)
    for row, wanted in zip(rows, right, strict=True):
        if not any(found for one in wanted for found in scores(one, wanted).values()):
            hint = (
                "other words: --set score.tokenize=zh, char or intl" if score.metric == "rouge" else "another --metric"
            )
            raise DataError(f"{row.where}: score.metric {score.metric} finds nothing in the answer {wanted[0]!r}", hint)


def answer_in(text: str, pattern: str | None, row: Row) -> str:
    """What counts as the answer of all that was written: without the white space around it, which is the prompt's.

    Raises:
        DataError: the pattern takes too long.
    """
    if pattern is None:
        return text.strip()
    try:
        return last_match(pattern, text) or ""
    except TimeoutError as error:
        raise DataError(
            f"{row.where}: to find score.extract in what was written takes more than a second",
            "write a simpler pattern",
        ) from error


def last_answer(one: Encoded) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What stands before the last run of supervised tokens, as it is fed in training, and the run."""
    start = max(i for i in range(len(one.rows)) if i == 0 or one.rows[i] != one.rows[i - 1] + 1)
    return one.ids[: one.rows[start] + 1], one.labels[start:]
