"""What is kept on disk, states and tokenised corpora: listed, cleared, held under a limit. No torch."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ctxtune.backend.atomic import alive, remove
from ctxtune.backend.home import corpora
from ctxtune.backend.home import states as folder

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LIMIT", "Stored", "clear_stores", "folder", "free_bytes", "list_stores", "make_room"]

LIMIT = 20 << 30  # bytes that all stores may take together; the ones used longest ago go first


@dataclass(frozen=True)
class Stored:
    """One store on disk."""

    key: str
    num_bytes: int
    used: float
    path: Path
    what: Literal["states", "corpus"] = "states"


def list_stores() -> list[Stored]:
    """The stores on disk, the most recently used first."""
    found = []
    for path in folder(make=False).glob("*.safetensors"):
        stat = path.stat()
        found.append(Stored(path.stem, stat.st_size, stat.st_mtime, path))
    for marker in corpora(make=False).glob("*/corpus.json"):
        place = marker.parent
        size = sum(path.stat().st_size for path in place.iterdir())
        found.append(Stored(place.name, size, marker.stat().st_mtime, place, "corpus"))
    return sorted(found, key=lambda store: -store.used)


def clear_stores(older_than_days: float = 0.0) -> list[Stored]:
    """Remove the stores not used for that many days; returns what was removed."""
    limit = time.time() - older_than_days * 86400
    gone = [store for store in list_stores() if store.used <= limit]
    for store in gone:
        _drop(store)
    for stray in folder().glob("*.tmp"):
        builder = stray.name.split(".")[-2]
        if stray.stat().st_mtime <= limit and not (builder.isdecimal() and alive(int(builder))):
            stray.unlink(missing_ok=True)
    return gone


def _drop(store: Stored) -> None:
    """Remove a store; who has mapped it goes on reading."""
    remove(store.path)
    store.path.with_suffix(".lock").unlink(missing_ok=True)


def make_room(num_bytes: int) -> None:
    """Remove the stores used longest ago until `num_bytes` more fit under the limit."""
    stores = list_stores()
    total = sum(store.num_bytes for store in stores)
    while stores and total + num_bytes > LIMIT:
        oldest = stores.pop()
        _drop(oldest)
        total -= oldest.num_bytes


def free_bytes(path: Path) -> int:
    """Bytes that may still be written to the disk of `path`."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize
