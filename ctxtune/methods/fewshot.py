"""In-context learning: demonstrations stand before every question, and no weight moves (Brown et al. 2020).

    instruction   [prompt delimiter answer separator] x K   prompt delimiter choice

The text is lm-evaluation-harness's; in a chat each demonstration is two turns (data/turns.py). A question that is itself among
the demonstrations does not see its own answer: it is asked behind the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from ctxtune.data.prompt import own_words
from ctxtune.data.read import Row
from ctxtune.data.turns import turns_of
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.data.chat import ChatTokenizer
    from ctxtune.data.encode import EncodeSpec
    from ctxtune.recipe.schema import Fewshot


@dataclass(frozen=True)
class Shot:
    """A demonstration: what is asked in it, what is answered, all that is read of it, and the row that it is."""

    question: str
    answer: str
    text: str
    where: str = field(compare=False, default="")


Shots = tuple[Shot, ...]
Groups = dict[Shots, list[Row]]
"""demonstrations, and the rows that are asked behind them"""


def formed(spec: EncodeSpec, settings: Fewshot) -> EncodeSpec:
    """How questions become tokens with these settings: as turns of a chat, or by another's rules.

    Raises:
        ModelError: the tokenizer has no chat template.
    """
    replay = settings.replay is not None
    if not settings.chat:
        return replace(spec, replay=replay)
    turns = turns_of(cast("ChatTokenizer", spec.tokenizer), spec.instruction, drop=replay)
    return replace(spec, replay=replay, turns=turns, instruction="", delimiter="")


def check_words(spec: EncodeSpec, settings: Fewshot) -> None:
    """Refuse rules by which a model's own words would not stand between what is asked and the answer.

    Raises:
        ModelError: the tokenizer has such words (data/prompt.py).
    """
    channel = settings.calibrate == "channel"
    if (channel or settings.replay is not None) and own_words(spec.tokenizer).behind:
        key, where = ("calibrate channel", "the question") if channel else (f"replay {settings.replay}", "the answer")
        raise ModelError(
            f"method.{key}: the model has words of its own behind what is asked, and they would stand behind {where}",
            "leave it out",
        )


def shots_of(rows: Sequence[Row], spec: EncodeSpec, separator: str) -> Shots:
    """Rows as demonstrations, in their order."""
    bare = spec.bare
    rendered = [(bare.render(row), row.where) for row in rows]
    return tuple(
        Shot(one.prompt, one.answer or "", spec.joined(one.prompt, one.answer or "") + separator, where)
        for one, where in rendered
    )


def behind(shots: Shots, spec: EncodeSpec) -> EncodeSpec:
    """How a question becomes tokens behind these demonstrations."""
    if spec.turns is not None:
        return replace(spec, turns=spec.turns.behind([(shot.question, shot.answer) for shot in shots]))
    return replace(spec, instruction=spec.instruction + "".join(shot.text for shot in shots))


def by_shots(rows: Sequence[Row], shots: Shots, spec: EncodeSpec) -> Groups:
    """The rows by the demonstrations, of these, that each of them is asked behind."""
    known, bare = {shot.question for shot in shots}, replace(spec.bare, answer=None)
    found: Groups = {}
    for row in rows:
        question = bare.render(row).prompt
        seen = tuple(shot for shot in shots if shot.question != question) if question in known else shots
        found.setdefault(seen, []).append(row)
    return found
