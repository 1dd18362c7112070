"""SIGINT and SIGTERM: inside the loop they are put off to the end of the step, elsewhere they end the command at once."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ctxtune.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Signal(BaseException):
    """On its way out of whatever was running. No Exception: code that falls back on failure must not take it for one."""


class Stop:
    """Whether the user asked to stop. A second signal does not wait."""

    def __init__(self) -> None:
        self.requested = False
        self._deferring = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if not self._deferring or self.requested:
            raise _Signal(signal.Signals(number).name)
        self.requested = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `requested`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False


@contextmanager
def stop_signals(hint: Callable[[], str | None] = lambda: None) -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM until the block ends; then the earlier handlers stand again. `hint` says what to do next.

    Raises:
        Interrupted: one came where it is not put off.
    """
    stop = Stop()
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield stop
    except _Signal as sent:
        raise Interrupted(f"stopped by {sent}", hint()) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
