"""Frozen layers run once over what is read again and again; whether that says the same as the model itself is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxtune.commands.heartbeat import heartbeat
from ctxtune.recipe.plural import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.cache import States
    from ctxtune.backend.feed import Feed


def keep_checked(feed: Feed, where: str, mark: str, say: Callable[[str], None]) -> tuple[States | None, float]:
    """What the frozen layers said of all examples, `where` as in a recipe, and how far it is from the model's own.

    Where it is too far nothing is kept, and every layer runs every time.
    """
    from ctxtune.backend.feed import check_kept, is_exact

    layers = len(feed.trunk.blocks) if feed.suffix else feed.trunk.start
    once = layers > 0 and where != "off"
    what = f"running the {layers} frozen layers once over {counted(len(feed.examples), 'example')}"
    with heartbeat(say if once else None, what):
        states = feed.keep(where, mark)
    difference = check_kept(feed)
    if not is_exact(difference, feed.trunk.base.device.dtype):
        say(f"kept states differ from the model by {difference:.1e}: every layer runs every time instead")
        feed.keep_nothing()
        states = None
    return states, difference


def facts_of(states: States | None, difference: float) -> dict[str, Any]:
    """What a result tells of them."""
    if states is None:
        return {"place": "off", "bytes": 0, "digest": None, "difference": difference}
    return {"place": states.place, "bytes": states.data.nbytes, "digest": states.digest, "difference": difference}
