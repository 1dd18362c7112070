"""Which format a file has, by its name: `train.jsonl` is JSON lines, `train.csv.gz` a packed table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "txt"}
COLUMNS = {".parquet": "parquet"}
PACKED = (".gz", ".zst")  # of any text


def format_of(path: Path) -> str:
    """The format that the suffix names, the one before .gz and .zst.

    Raises:
        DataError: it names none that is known.
    """
    suffix = path.suffix.lower()
    if suffix in PACKED:
        suffix = Path(path.stem).suffix.lower()
    elif suffix in COLUMNS:
        return COLUMNS[suffix]
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    said = f"the suffix {suffix!r} names no known format" if suffix else "a name without a suffix tells no format"
    raise DataError(
        f"{path}: {said}",
        f"the known ones are {', '.join([*SUFFIXES, *COLUMNS])}; any text may be packed as .gz or .zst",
    )


def is_packed(path: Path) -> bool:
    """Whether the name says that the bytes must be unpacked."""
    return path.suffix.lower() in PACKED


def data_files(paths: Iterable[Path]) -> list[str]:
    """The names among these that look like data, at most five, for a hint."""
    names = {*SUFFIXES, *COLUMNS, *PACKED}
    return sorted(path.name for path in paths if path.suffix.lower() in names)[:5]


def bare_name(path: Path) -> str:
    """The name without the suffixes that tell the format: `train` of train.csv.gz."""
    for known in (PACKED, {*SUFFIXES, *COLUMNS}):
        if path.suffix.lower() in known:
            path = path.with_suffix("")
    return path.name
