"""Which tokens of an example the loss is on, as pieces of text that can be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.data.encode import Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.data.encode import Kind


@dataclass(frozen=True)
class Piece:
    """Tokens that stand together, all of them supervised or none; `text` is what they say."""

    text: str
    tokens: int
    supervised: bool


def marked_tokens(one: Encoded, kind: Kind) -> list[tuple[int, bool]]:
    """Every token of an example, and whether the loss is on it.

    A causal model predicts at row t the token at t + 1, so that its last one is never fed; a masked model predicts in place.
    """
    shift = 1 if kind == "causal" else 0
    told = {row + shift: label for row, label in zip(one.rows, one.labels, strict=True)}
    length = max(len(one.ids), max(told, default=-1) + 1)
    return [(told.get(at, one.ids[at] if at < len(one.ids) else -1), at in told) for at in range(length)]


def pieces(one: Encoded, kind: Kind, tokenizer: Any, *, each: bool = False, choices: Sequence[str] = ()) -> list[Piece]:
    """The example cut where the loss begins and ends, or, with `each`, at every token.

    A piece's text is what decoding adds to all that stands before it: a letter of several tokens appears with its last one.
    What a classifier learns is no token of the text: the choice of an example stands behind it.
    """
    found: list[Piece] = []
    before: list[int] = []
    run: list[int] = []
    if kind == "classifier":
        text = pieces(Encoded(one.ids, (), ()), "masked", tokenizer, each=each)
        return [*text, Piece(f" {choices[one.labels[0]]}", 0, True)]
    marked = marked_tokens(one, kind)
    for at, (token, supervised) in enumerate(marked):
        run.append(token)
        if each or at + 1 == len(marked) or marked[at + 1][1] != supervised:
            said, now = _decode(tokenizer, before), _decode(tokenizer, before + run)
            found.append(
                Piece(now[len(said) :] if now.startswith(said) else _decode(tokenizer, run), len(run), supervised)
            )
            before, run = before + run, []
    return found


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.rstrip("\ufffd")  # half of a letter: its other half comes with a later token
