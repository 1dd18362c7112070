"""A learned prompt that starts from earlier ones: of several, from the one behind which the training rows surprise least.

SPoT (Vu et al. 2022) looks for the nearest by the cosine between prompts, and so needs a prompt of the new task first. The
loss needs none, and is what training is to lower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxtune.adapter.prefix import CONTAINER, layout_of, shown
from ctxtune.adapter.read import open_adapter
from ctxtune.commands.begin import learning_feed, out_of_sight
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.begin import Beginning
    from ctxtune.commands.lesson import Lesson
    from ctxtune.methods.registry import Method, Virtual

_ROWS = 64  # training rows on which several are compared


def earlier(paths: Sequence[Path], kind: str, tokens: int | None) -> tuple[list[AdapterFile], int]:
    """Adapters that a prompt of this kind can start from, and how many virtual tokens: so many, or what all of them hold.

    Raises:
        AdapterError: one of them holds something else, or fewer tokens than are wanted.
    """
    found, held = [], []
    for path in paths:
        adapter = open_adapter(path)
        if shown(adapter) is None or (adapter.container == CONTAINER) != (kind == "prefix"):
            what = "keys and values" if kind == "prefix" else "vectors"
            raise AdapterError(
                f"{adapter.path} holds no {what}, as a prompt of kind {kind} does", "choose another --kind"
            )
        held.append(layout_of(adapter).tokens)
        if held[-1] < (tokens or 1):
            raise AdapterError(f"{adapter.path} holds {held[-1]:,} tokens, {tokens:,} are asked for", "fewer --tokens")
        found.append(adapter)
    return found, tokens or min(held)


def set_off(
    trunk: Trunk, method: Method, start: Beginning | None, learned: Lesson, mark: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Let virtual tokens, if there are any, begin as they are to; of several adapters what was found, the nearest first.

    Raises:
        AdapterError: one was made on another base, or is damaged.
    """
    from ctxtune.adapter.keys import held_rows
    from ctxtune.adapter.read import check_base, check_bytes

    virtual = method.virtual
    if start is None or virtual is None:
        return {}
    if said := out_of_sight(trunk.base, learned.examples.examples, len(start.spec.before)):
        say(said)
    if start.questions:
        virtual.begin_among(trunk, start.tokens, start.questions)
        return {}
    if not start.adapters:
        virtual.begin(trunk, start.tokens)
        return {}
    count, known = len(start.spec.virtual), []
    for adapter in start.adapters:
        check_base(adapter, mark)
        check_bytes(adapter)
        known.append(held_rows(adapter)[:count])
    if len(known) == 1:
        virtual.begin_as(trunk, known[0])
        return {}
    losses = [_loss(trunk, virtual, rows, learned) for rows in known]
    order = sorted(range(len(known)), key=losses.__getitem__)
    for place in order:
        say(f"{start.adapters[place].path}: loss {losses[place]:.4f} on training rows, where it starts")
    say(f"starting from {start.adapters[order[0]].path}, the nearest")
    virtual.begin_as(trunk, known[order[0]])
    return {"near": [{"adapter": str(start.adapters[place].path), "loss": losses[place]} for place in order]}


def _loss(trunk: Trunk, virtual: Virtual, rows: Any, learned: Lesson) -> float:
    """The mean loss of a few training rows behind an earlier prompt."""
    virtual.begin_as(trunk, rows)
    feed = learning_feed(trunk, virtual, learned.examples.examples[:_ROWS])
    losses = learned.objective(feed).losses(range(len(feed.examples)))
    return float(sum(losses) / len(losses))
