"""The possible answers of a row, the same for all rows or listed by the row itself, and which of them is right.

A recipe's list of texts holds for every row, and an answer is one of these texts. A template such as `{{ choices }}`
lists a row's own, in either form of published sets:

    ["fog", "rain"]                                       the answer is a place, counted from 0, or one of the texts
    {"text": ["fog", "rain"], "label": ["A", "B"]}        the answer is a label, else a place or a text

A place is a number, not a text of digits: `{{ answer | int }}` makes one of the other (lm-evaluation-harness takes both).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxtune.errors import DataError

if TYPE_CHECKING:
    from ctxtune.data.read import Row
    from ctxtune.data.render import Template

MAX_CHOICES = 1_000  # of one row: each is run through the model
FORMS = 'write a list of texts, or {"text": [...], "label": [...]}'


@dataclass(frozen=True)
class Choices:
    """What may be answered. `labels` are other names of the texts, if they have any; `own`: the row lists them itself."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    own: bool = False


def choices_of(row: Row, template: Template) -> Choices:
    """The choices that a row lists.

    Raises:
        DataError: no list, too short a list, a choice that is no text or stands there twice.
    """
    value = template.value(row)
    where = f"{row.where}: {template.key}"
    if not isinstance(value, dict):
        return Choices(_texts(value, where), own=True)
    if not {"text", "label"} <= value.keys():
        named = ", ".join(map(repr, value)) or "nothing"
        raise DataError(f"{where} gives an object with {named}, not with 'text' and 'label'", FORMS)
    texts, labels = _texts(value["text"], f"{where}.text"), _texts(value["label"], f"{where}.label")
    if len(texts) != len(labels):
        raise DataError(f"{where} gives {len(texts)} texts and {len(labels)} labels")
    return Choices(texts, labels, own=True)


def gold(row: Row, answer: Template, choices: Choices) -> int:
    """The place of the right answer among the choices.

    Raises:
        DataError: it is none of them.
    """
    value = answer.value(row)
    said = value if isinstance(value, str) else answer.render(row)
    if said in choices.labels:
        return choices.labels.index(said)
    if choices.own and isinstance(value, int) and not isinstance(value, bool):
        return _place(row, value, len(choices.texts))
    if said in choices.texts:
        return choices.texts.index(said)
    listed = ", ".join(map(short, choices.texts[:8])) + (", ..." if len(choices.texts) > 8 else "")
    raise DataError(f"{row.where}: the answer {short(said)} is none of the choices {listed}", _hint(said, choices))


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        shown = short(value) if isinstance(value, str) else type(value).__name__
        raise DataError(f"{where} gives {shown}, not a list", FORMS)
    if not 2 <= len(value) <= MAX_CHOICES:
        wanted = "at least 2" if len(value) < 2 else f"at most {MAX_CHOICES:,}"
        raise DataError(f"{where} gives a list of {len(value):,}, choices are {wanted}")
    seen: dict[str, int] = {}
    for i, one in enumerate(value):
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise DataError(f"{where}[{i}] is {'null' if one is None else type(one).__name__}, not a text", FORMS)
        text = str(one)
        if not text.strip():
            raise DataError(f"{where}[{i}] is empty", "a choice is a text of at least one letter")
        if seen.setdefault(text, i) != i:
            raise DataError(f"{where}: {short(text)} stands there twice, at {seen[text]} and {i}")
    return tuple(seen)


def _place(row: Row, value: int, count: int) -> int:
    if 0 <= value < count:
        return value
    hint = "write {{ answer - 1 }} if places count from 1, {{ answer | string }} if it is a choice's text"
    raise DataError(f"{row.where}: the answer {value} is no place among {count} choices, counted from 0", hint)


def _hint(answer: str, choices: Choices) -> str:
    for choice in choices.texts:
        if answer.strip() == choice.strip():
            return f"it differs from {choice!r} only in white space: write {{{{ label | trim }}}}, or mend the row"
        if answer.strip().casefold() == choice.strip().casefold():
            return f"it differs from {choice!r} only in case: write {{{{ label | lower }}}}, or mend the row"
    if choices.own and answer.isdecimal():
        return "write {{ answer | int }} if it is a place, counted from 0"
    near = difflib.get_close_matches(answer, (*choices.labels, *choices.texts), n=1)
    if near:
        return f"did you mean {near[0]!r}? Mend the row, or the choice if that is where the mistake stands"
    return "mend the row" if choices.own else "add it to data.choices, or mend the row"


def short(text: str) -> str:
    """A text as a message quotes it, 80 characters at most."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
