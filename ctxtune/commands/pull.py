"""Fetch a base model once, into the user's folder: a name of the catalogue, whose files are pinned, or one of a hub."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.backend import hub
from ctxtune.backend.atomic import locked, new_folder, require_room, write_text
from ctxtune.backend.catalogue import CATALOGUE, Entry
from ctxtune.backend.fetch import obtain
from ctxtune.backend.folder import NOTE, check_folder, folder_bytes, is_complete, read_json
from ctxtune.backend.home import models
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True)
class PulledModel:
    """What `model pull` did; `fresh` is false if the model was there already."""

    name: str
    folder: Path
    seconds: float
    num_bytes: int
    licence: str
    fresh: bool


def nobody(terms: str) -> bool:
    """Agrees to nothing."""
    return False


def pull(
    name: str,
    given: Sequence[Path] = (),
    say: Callable[[str], None] = lambda text: None,
    agree: Callable[[str], bool] = nobody,
) -> PulledModel:
    """Fetch model `name` once into the user's folder and return where it is.

    `given` are files fetched by other means (wheels, the model's files, or a folder of them); they must be the same files,
    bit for bit. `agree` is asked before anything is fetched where a model has terms.

    Raises:
        ModelError: the name is unknown, its terms were not agreed to, the fetch failed, or a file is not the pinned one.
        StorageError: no room.
    """
    begun = time.monotonic()
    folder = models() / hub.folder_name(name)
    if name not in CATALOGUE and is_complete(folder):  # the hub is not asked again
        return PulledModel(name, folder, time.monotonic() - begun, folder_bytes(folder), _licence(folder), False)
    entry = _entry(name)
    if not is_complete(folder) and entry.terms is not None and not agree(entry.terms):
        raise ModelError(
            f"{name} has terms of its own, and nobody agreed to them", "read them, then pass --accept-licence"
        )
    with alone(models(), lambda: say("another ctxtune is pulling a model: waiting for it")):
        fresh = not is_complete(folder)
        if fresh:
            # Said before 90 MB are fetched, not after: the files, what holds them on their way, and the folder made of them.
            require_room(folder.parent, 2 * entry.num_bytes + entry.stored_bytes, entry.name)
            with tempfile.TemporaryDirectory(prefix=".pull-", dir=models()) as scratch:
                _install(entry, obtain(entry, given, Path(scratch), say), folder, say)
    return PulledModel(name, folder, time.monotonic() - begun, folder_bytes(folder), entry.licence, fresh)


def _install(entry: Entry, files: list[Path], folder: Path, say: Callable[[str], None]) -> None:
    """Pinned files become the model's folder: a .gguf file by conversion, other files as they are."""
    note: dict[str, Any] = {
        "model": entry.name,
        "licence": entry.licence,
        "files": {file.name: file.hash for file in entry.files},
    }
    note["from"] = list(entry.origins)
    if files[0].suffix == ".gguf":
        from ctxtune.backend.gguf import convert

        say("converting to safetensors, once")
        convert(files[0], folder, note, files[1:])
        return
    with new_folder(folder) as new:
        for path in files:
            path.rename(new / path.name)
        write_text(new / NOTE, json.dumps(note, indent=2) + "\n")
        check_folder(new)


def _entry(name: str) -> Entry:
    if name in CATALOGUE:
        return CATALOGUE[name]
    if hub.is_hub_id(name):
        return hub.find(name)
    raise ModelError(
        f"no model {name[:200]!r} in the catalogue", "there are: " + ", ".join(CATALOGUE) + "; or owner/name of a hub"
    )


def _licence(folder: Path) -> str:
    return str(read_json(folder / NOTE).get("licence")) if (folder / NOTE).is_file() else "not known"


@contextmanager
def alone(place: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Only one process at a time pulls into a folder; what a killed one left is swept."""
    with locked(place / ".pull.lock", waiting):
        for left in place.glob(".pull-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
