"""Where a learned prompt starts: of several earlier ones, or of several tokens, where the training rows surprise least.

SPoT (Vu et al. 2022) looks for the nearest by the cosine between prompts, and so needs a prompt of the new task first. The
loss needs none, and is what training is to lower.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.prefix import CONTAINER, layout_of, shown
from ctxtune.adapter.read import open_adapter
from ctxtune.commands.begin import learning_feed, out_of_sight
from ctxtune.errors import AdapterError
from ctxtune.recipe.plural import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
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
    """Let virtual tokens, if there are any, begin as they are to; of several starts what was found, the nearest first.

    Raises:
        AdapterError: one was made on another base, or is damaged.
    """
    virtual = method.virtual
    if start is None or virtual is None:
        return {}
    if said := out_of_sight(trunk.base, learned.examples.examples, len(start.spec.before)):
        say(said)
    ways = list(_ways(trunk, virtual, start, mark))
    if len(ways) == 1:
        ways[0].begin()
        return {}
    losses = [_loss(trunk, virtual, way, learned) for way in ways]
    order = sorted(range(len(ways)), key=losses.__getitem__)
    for place in order:
        say(f"{ways[place].name}: loss {losses[place]:.4f} on training rows, where it starts")
    nearest = ways[order[0]]
    say(f"starting from {nearest.name}, the nearest")
    nearest.begin()
    return {"near": [{"start": ways[place].name, "loss": losses[place]} for place in order]}


@dataclass(frozen=True)
class _Way:
    """One of the starts that are tried."""

    name: str
    begin: Callable[[], None]


def _ways(trunk: Trunk, virtual: Virtual, start: Beginning, mark: str) -> Iterator[_Way]:
    from ctxtune.adapter.keys import held_rows
    from ctxtune.adapter.read import check_base, check_bytes

    count = len(start.spec.virtual)
    for adapter in start.adapters:
        check_base(adapter, mark)
        check_bytes(adapter)
        yield _Way(str(adapter.path), partial(virtual.begin_as, trunk, held_rows(adapter)[:count]))
    if not start.adapters:
        yield _Way(f"the first {counted(count, 'token')}", partial(virtual.begin, trunk, start.tokens[:count]))
    if start.questions:
        among = partial(virtual.begin_among, trunk, start.tokens, start.questions)
        yield _Way(f"{counted(count, 'token')} at which questions look most", among)


def _loss(trunk: Trunk, virtual: Virtual, way: _Way, learned: Lesson) -> float:
    """The mean loss of a few training rows where it starts like this."""
    way.begin()
    feed = learning_feed(trunk, virtual, learned.examples.examples[:_ROWS])
    losses = learned.objective(feed).losses(range(len(feed.examples)))
    return float(sum(losses) / len(losses))
