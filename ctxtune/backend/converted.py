"""A .gguf file of the user's as a model folder: converted once, then found by what the file holds."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ctxtune.backend.atomic import locked, require_room, write_text
from ctxtune.backend.folder import is_complete, read_json
from ctxtune.backend.gguf import check_gguf, convert
from ctxtune.backend.home import conversions
from ctxtune.data.hash import sha256_file
from ctxtune.errors import ModelError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def converted(gguf: Path, say: Callable[[str], None]) -> Path:
    """The folder made of `gguf`; the header is checked each time, the conversion is done once.

    Raises:
        ModelError: the file is broken, or of a family that is not supported.
        StorageError: no room.
    """
    header = check_gguf(gguf)
    sha256 = _sha256(gguf)
    folder = conversions() / sha256
    if is_complete(folder):
        return folder
    with locked(conversions() / ".convert.lock", lambda: say("another ctxtune is converting a model: waiting for it")):
        if not is_complete(folder):
            require_room(folder.parent, 4 * sum(info.numel for info in header.tensors.values()), gguf.name)
            say(f"converting {gguf.name} to safetensors, once")
            licence = header.keys.get("general.license")
            note = {"model": gguf.name, "licence": licence if isinstance(licence, str) else None, "sha256": sha256}
            convert(gguf, folder, note)
    return folder


def _sha256(path: Path) -> str:
    """The hash of a file, remembered as long as its size and time stay the same."""
    status = path.stat()
    stamp: dict[str, Any] = {"path": str(path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    key = hashlib.sha256(stamp["path"].encode("utf-8", "surrogateescape")).hexdigest()
    memory = conversions() / f"{key}.json"
    with suppress(ModelError):
        note = read_json(memory)
        known = note.pop("sha256", None)
        if note == stamp and isinstance(known, str) and len(known) == 64 and known.isalnum():
            return known
    sha256 = sha256_file(path)
    with suppress(StorageError):  # only a memory: without it the next run computes again
        write_text(memory, json.dumps({**stamp, "sha256": sha256}))
    return sha256
