"""Several adapters on one base: each is read once, one of them is on at a time, and without one the base is as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxtune.adapter.read import check_base, check_bytes, open_adapter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.adapter.attach import Attached
    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.load import Base
    from ctxtune.commands.behind import Context

Key = tuple[str, int, int]
"""an adapter's file: where it is, its size and its time, so that one that is trained again is read again"""


class Switch:
    """The adapters of a base. `on` is the file of the one that is attached, `opened` what it says of itself."""

    def __init__(self, base: Base, force: bool, say: Callable[[str], None]) -> None:
        self.on: Key | None = None
        self.opened: AdapterFile | None = None
        self.known: dict[Key, Attached] = {}
        self._contexts: dict[Key, Context | None] = {}
        self._base = base
        self._force = force
        self._say = say

    @property
    def context(self) -> Context | None:
        """The demonstrations of the adapter that is on, if it holds some."""
        return self._contexts[self.on] if self.on is not None else None

    def use(self, place: Path | None) -> None:
        """Attach an adapter in place of the one before; None leaves the base alone. After an error all is as it was.

        Raises:
            AdapterError: it cannot be read, is damaged, or was made on another base and nobody insists.
        """
        if place is None:
            self._exchange(None, None)
            return
        opened = open_adapter(place)
        stat = opened.path.stat()
        key = (str(opened.path.resolve()), stat.st_size, stat.st_mtime_ns)
        if key not in self.known:
            self._load(key, opened)
        self._exchange(key, opened)

    def _load(self, key: Key, opened: AdapterFile) -> None:
        from ctxtune.adapter.attach import attach
        from ctxtune.backend.fingerprint import fingerprint
        from ctxtune.commands.behind import open_context

        if warning := check_base(opened, fingerprint(self._base.folder), self._force):
            self._say(warning)
        check_bytes(opened)
        before = self.known.get(self.on) if self.on is not None else None
        if before is not None:
            before.detach()  # an adapter's changes are changes of the base
        try:
            self._contexts[key] = open_context(self._base, opened)
            self.known[key] = attach(self._base.model, opened)
            self.known[key].detach()
        finally:
            if before is not None:
                before.attach()

    def _exchange(self, key: Key | None, opened: AdapterFile | None) -> None:
        if self.on is not None:
            self.known[self.on].detach()
        if key is not None:
            self.known[key].attach()
        self.on, self.opened = key, opened
