"""A choice of layers as it is written, `last:4.mlp+norms`: what its terms may be, before any model is looked at.

term   = which ["." kind] | name              last:4 | first:2 | 10-19 | 7 | all | last:4.mlp | norms | embeddings
which  = last:N | first:N | A-B | A           blocks, numbered from 0
kind   = attn | mlp | norms                   a part of these blocks only
name   = all | attn | mlp | norms | embeddings | head      of the whole model; `norms` includes the final norm
"""

import re
from typing import NamedTuple

KINDS = ("attn", "mlp", "norms")
NAMES = ("all", *KINDS, "embeddings", "head")
GRAMMAR = "write for example last:4, first:2, 10-19, last:4.mlp, last:4+norms, all, embeddings, head, or auto alone"
AUTO = "auto"

_NUMBER = "([0-9]{1,6})"
_TERM = re.compile(rf"(?:(last|first):{_NUMBER}|{_NUMBER}-{_NUMBER}|{_NUMBER})(?:\.({'|'.join(KINDS)}))?\Z")


class Term(NamedTuple):
    """Blocks `begin` to `end` of the model, the last one not included; counted from the top where `begin` is negative.

    Or what `name` says of the whole model. `kind` is the part of the blocks that is meant, empty for all of it.
    """

    text: str
    name: str = ""
    begin: int = 0
    end: int = 0
    kind: str = ""


def read_layers(layers: str) -> list[Term]:
    """The terms of a choice of layers.

    Raises:
        ValueError: one is no choice of layers, or chooses none.
    """
    return [_term(text.strip()) for text in layers.split("+")]


def checked(layers: str) -> str:
    """The text itself if it can be read, or `auto`.

    Raises:
        ValueError: as above, with what could stand there.
    """
    if layers != AUTO:
        read_layers(layers)
    return layers


def _term(text: str) -> Term:
    if text in NAMES:
        return Term(text, name=text)
    match = _TERM.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a choice of layers; {GRAMMAR}")
    side, count, low, high, one, kind = match.groups()
    if side == "last":
        begin, end = -int(count), 0
    elif side == "first":
        begin, end = 0, int(count)
    else:
        begin, end = int(low or one), int(high or one) + 1
    if begin >= end:
        raise ValueError(f"{text!r} is empty; {GRAMMAR}")
    return Term(text, "", begin, end, kind or "")
