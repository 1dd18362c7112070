"""A prompt becomes tokens, with the words of a checkpoint's own learned prompt where they belong: before it or behind it.

`ctxtune adapter export --to model` makes vectors words (backend/bake.py), which the tokenizer then writes before every text or
behind it. To a tokenizer a prompt with its answer is one text; here the words behind it stand between the two. They are known
by their names alone: what another tokenizer writes behind a text ([SEP], an end of text) is no part of a prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctxtune.data.tokens import content, frame, starts_itself

if TYPE_CHECKING:
    from ctxtune.data.tokens import Tokenizer

_NAME = "<|virtual-{}|>"


class Words(NamedTuple):
    """Tokens before every text, and tokens between what is asked and the answer."""

    before: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()


def names(count: int) -> list[str]:
    """What so many words are called."""
    return [_NAME.format(number) for number in range(count)]


def own_words(tokenizer: Tokenizer) -> Words:
    """Those that a checkpoint's tokenizer writes at a text by itself; none of an ordinary one."""
    before, behind = (
        side if side and _called(tokenizer, side) == names(len(side)) else () for side in frame(tokenizer)
    )
    return Words(before, behind)


def words_behind(tokenizer: Tokenizer) -> str:
    """Those behind a text, as a chat template writes them."""
    return "".join(names(len(own_words(tokenizer).behind)))


def encode_prompt(tokenizer: Tokenizer, text: str, *, framed: bool = True) -> list[int]:
    """A text as it begins, and goes on with more of it: what the tokenizer would put behind it is left out."""
    ids = tuple(content(tokenizer, [text])[0]["input_ids"])
    return list(ids if not framed or starts_itself(tokenizer, ids) else (*frame(tokenizer)[0], *ids))


def encode_question(tokenizer: Tokenizer, text: str, *, framed: bool = True) -> list[int]:
    """A text behind which an answer is to follow; of nothing nothing."""
    words = own_words(tokenizer)
    ids = encode_prompt(tokenizer, text, framed=framed and not words.before)
    asked = [*words.before, *ids] if framed else ids
    return [*asked, *words.behind] if asked else []


def join(prompt: str, delimiter: str, answer: str) -> str:
    """A prompt with its answer; no delimiter stands behind white space, or where there is no prompt."""
    return prompt + answer if not prompt or prompt[-1].isspace() else prompt + delimiter + answer


def _called(tokenizer: Tokenizer, ids: tuple[int, ...]) -> list[str]:
    found: list[str] = tokenizer.convert_ids_to_tokens(list(ids))
    return found
