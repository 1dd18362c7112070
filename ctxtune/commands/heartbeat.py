"""A part of a run that says nothing by itself is named as it begins, and again every few seconds until it ends."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVERY = 5.0


@contextmanager
def heartbeat(say: Callable[[str], None] | None, what: str, at_once: bool = True) -> Iterator[None]:
    """Say `what` is done inside the block, if there is somebody to tell; without `at_once` only of a block that takes long."""
    if say is None:
        yield
        return
    if at_once:
        say(what)
    done, begun = threading.Event(), time.monotonic()

    def beat() -> None:
        while not done.wait(EVERY):
            say(f"{what}: {time.monotonic() - begun:.0f} s so far")

    teller = threading.Thread(target=beat, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
