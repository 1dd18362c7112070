"""Inputs that ask nothing, from which is read what a model prefers before any question.

contextual   the texts of a row are replaced by N/A, by nothing and by [MASK] (Zhao et al. 2021)
domain       by random words of the rows, as many as a row has (Fei et al. 2023)
premise      what the prompt's template leaves behind its last field, such as `Answer:` (Holtzman et al. 2021)

Fields that are no text, and those that the prompt does not read, stay as they are in some row.
"""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.data.read import Row
    from ctxtune.data.render import Template

NOTHING = ("N/A", "", "[MASK]")
DRAWS = 20
_MARK = "\ue000"  # a letter for private use: no text holds it, no filter changes it
# Chinese and Japanese are written without spaces: there a letter stands for a word.
_LETTERS = r"\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\uff00-\uffef"
_LETTER, _WORD = re.compile(f"[{_LETTERS}]"), re.compile(rf"[{_LETTERS}]|[^\s{_LETTERS}]+")


def contextual_rows(rows: Sequence[Row], prompt: Template) -> list[Row]:
    """The first row, its texts replaced by what says nothing; none where the prompt reads no text of it."""
    names = _texts(rows[0], prompt)
    return [_with(rows[0], dict.fromkeys(names, text)) for text in NOTHING] if names else []


def domain_rows(rows: Sequence[Row], prompt: Template, seed: int) -> list[Row]:
    """Rows drawn by lot, each text replaced by as many words as that field has on average, drawn from all rows."""
    random = Random(f"words {seed}")
    words = {
        name: [_WORD.findall(str(row.fields[name])) for row in rows if _is_text(row, name)] for name in prompt.names
    }
    pools = {name: [word for some in texts for word in some] for name, texts in words.items()}
    lengths = {name: round(len(pools[name]) / max(1, len(texts))) for name, texts in words.items()}
    done = []
    for _ in range(DRAWS):
        row = random.choice(rows)
        drawn = {name: random.choices(pools[name], k=lengths[name]) for name in _texts(row, prompt) if pools[name]}
        if drawn:
            done.append(_with(row, {name: _joined(some) for name, some in drawn.items()}))
    return done


def premise(row: Row, prompt: Template) -> str | None:
    """What stands behind the last text of a row in its prompt; None where that cannot be told."""
    _, mark, behind = prompt.render(_with(row, dict.fromkeys(_texts(row, prompt), _MARK))).rpartition(_MARK)
    return behind.lstrip() if mark else None


def _texts(row: Row, prompt: Template) -> list[str]:
    return [name for name in prompt.names if _is_text(row, name)]


def _is_text(row: Row, name: str) -> bool:
    return isinstance(row.fields.get(name), str)


def _with(row: Row, texts: dict[str, str]) -> Row:
    return replace(row, fields={**row.fields, **texts})


def _joined(words: Sequence[str]) -> str:
    """Words with spaces between them, but for those that are one letter of a script without."""
    text = ""
    for word in words:
        text += word if not text or (_LETTER.match(word) and _LETTER.match(text[-1])) else f" {word}"
    return text
