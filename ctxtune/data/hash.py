"""The sha256 of a file: resolved recipes and adapters name their inputs by it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ctxtune.data.read import open_file
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def sha256_file(path: Path | str) -> str:
    """The hexadecimal sha256 of a regular file's bytes, read in pieces."""
    digest = hashlib.sha256()
    try:
        with open_file(path) as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()
