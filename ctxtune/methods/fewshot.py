"""In-context learning: demonstrations stand before every question, and no weight moves (Brown et al. 2020).

    instruction   [prompt delimiter answer separator] x K   prompt delimiter choice

The text is lm-evaluation-harness's. A question that is itself among the demonstrations does not see its own answer: it is
asked behind the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ctxtune.data.encode import join
from ctxtune.data.read import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.data.encode import EncodeSpec


@dataclass(frozen=True)
class Shot:
    """A demonstration: what is asked in it, all that is read of it, and the row that it is."""

    question: str
    text: str
    where: str = field(compare=False, default="")


Shots = tuple[Shot, ...]
Groups = dict[Shots, list[Row]]
"""demonstrations, and the rows that are asked behind them"""


def shots_of(rows: Sequence[Row], spec: EncodeSpec, separator: str) -> Shots:
    """Rows as demonstrations, in their order."""
    bare = replace(spec, instruction="")
    rendered = [(bare.render(row), row.where) for row in rows]
    return tuple(
        Shot(one.prompt, join(one.prompt, spec.delimiter, one.answer or "") + separator, where)
        for one, where in rendered
    )


def behind(shots: Shots, spec: EncodeSpec) -> EncodeSpec:
    """How a question becomes tokens behind these demonstrations."""
    return replace(spec, instruction=spec.instruction + "".join(shot.text for shot in shots))


def by_shots(rows: Sequence[Row], shots: Shots, spec: EncodeSpec) -> Groups:
    """The rows by the demonstrations, of these, that each of them is asked behind."""
    known, bare = {shot.question for shot in shots}, replace(spec, instruction="", answer=None)
    found: Groups = {}
    for row in rows:
        question = bare.render(row).prompt
        seen = tuple(shot for shot in shots if shot.question != question) if question in known else shots
        found.setdefault(seen, []).append(row)
    return found
