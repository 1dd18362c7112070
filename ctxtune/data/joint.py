"""Where demonstrations end and a question begins, in tokens.

A tokenizer works on the whole text: what it makes of demonstrations alone, or of a question alone, need not be what it makes
of them together (a line break may merge with the next, a first word may get a space before it). What is shared by all
questions is cut so that, where it can be, a question's own tokens stand behind it as they do in the whole text:

    tok(demonstrations + question) = shared + tok(question)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxtune.data.branch import shared
from ctxtune.data.prompt import encode_prompt
from ctxtune.data.tokens import content

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.data.tokens import Tokenizer


@dataclass(frozen=True)
class Joint:
    """The tokens that all questions stand behind, and whether each question's are those of its text alone."""

    tokens: tuple[int, ...]
    alone: bool


def joint(tokenizer: Tokenizer, front: str, questions: Sequence[str]) -> Joint:
    """The longest run of tokens that is in `front` and begins all whole texts; empty where there is none."""
    asked = [one for one in dict.fromkeys(questions) if one]
    wholes = [tuple(encode_prompt(tokenizer, front + one)) for one in asked]
    bare = [tuple(one["input_ids"]) for one in content(tokenizer, asked)]
    fronts = {
        whole[: -len(ids)] if ids and whole[-len(ids) :] == ids else None
        for whole, ids in zip(wholes, bare, strict=True)
    }
    if len(fronts) == 1 and (tokens := fronts.pop()):
        return Joint(tokens, True)
    least = min((len(whole) - 1 for whole in wholes), default=None)
    return Joint(shared([tuple(encode_prompt(tokenizer, front)), *wholes])[:least], False)
