"""The sha256 of files, by which recipes and adapters name their inputs, and of a row, by which results are compared."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from ctxtune.data.open import open_file
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ctxtune.data.files import Files


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


def sha256_files(files: Files) -> str:
    """A single file's sha256; else that of the list that `sha256sum` prints for the files, in their order."""
    if files.paths == (files.name,):
        return sha256_file(files.name)
    lines = "".join(f"{sha256_file(path)}  {files.short(path)}\n" for path in files.paths)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def sha256_parts(parts: Sequence[Files], weights: Sequence[float] | None) -> str:
    """That of a single input; of several with weights, that of a list of their hashes and weights, in their order."""
    if weights is None:
        return sha256_files(parts[0])
    lines = "".join(f"{sha256_files(files)}  {weight!r}\n" for files, weight in zip(parts, weights, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def sha256_fields(fields: Mapping[str, object]) -> str:
    """The hexadecimal sha256 of a row: the same for the same fields, in whatever order and file they stand."""
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
