"""How a run speaks on the terminal while it works: lines, and a step's progress."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ctxtune.cli import console

if TYPE_CHECKING:
    from ctxtune.engine.loop import StepFacts


@contextmanager
def speaking() -> Iterator["Voice"]:
    """A voice; at the end its bar is off the terminal."""
    voice = Voice()
    try:
        yield voice
    finally:
        voice.progress.close()


class Voice:
    """How a run speaks on the terminal."""

    def __init__(self) -> None:
        self.progress = console.Progress()
        self._begun = 0.0
        self._first = self._last = 0

    def note(self, text: str) -> None:
        """A line."""
        console.note(text)

    def step(self, facts: "StepFacts") -> None:
        """A step of the loop."""
        if not self._begun or facts.step <= self._last:  # or another loop has begun
            self._begun, self._first = time.monotonic() - facts.seconds, facts.step - 1
        self._last = facts.step
        pace = (time.monotonic() - self._begun) / (facts.step - self._first)
        left = pace * (facts.steps - facts.step)
        self.progress.step(facts.step, facts.steps, facts.loss, facts.lr, facts.tokens / max(facts.seconds, 1e-9), left)
