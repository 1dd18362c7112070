"""What a process that goes on for ever gives back."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

from ctxtune.backend import tidy

if TYPE_CHECKING:
    import pytest


class Held:
    """An object that holds itself."""

    def __init__(self) -> None:
        self.own = self


def test_what_holds_itself_is_freed_and_what_was_there_stays() -> None:
    kept = Held()
    tidy.settle()
    try:
        lost = weakref.ref(Held())
        assert lost() is not None
        tidy.give_back()
        assert lost() is None
        assert kept.own is kept
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_a_system_whose_library_gives_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidy.ctypes, "CDLL", lambda _: object())
    tidy._trim.cache_clear()
    try:
        tidy.give_back()
    finally:
        tidy._trim.cache_clear()
