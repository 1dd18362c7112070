"""Rows of data, each with the line it stands on, or an error that names the file and the line.

    .jsonl .ndjson   one JSON object a line: UTF-8, unique keys, no NaN, no blank line but at the end
    .json            a list of JSON objects, or {"data": [...]}
    .csv .tsv        a header line, then cells; a quoted cell may run over several lines
    .txt             one row a line, in the field `text`; blank lines hold nothing and make no row
    .parquet         one row a row: text, numbers, truth values, lists and structs
    hub:owner/name   a data set in the cache of the library `datasets`, see hub.py
    a folder         one row for every .txt below it: its `text`, and its name as `file`; or what `save_to_disk` of the
                     library `datasets` wrote

Texts may be packed: .jsonl.gz, .csv.zst. A row's line is the line of the file on which it starts, or, where several
rows stand on one line or there are no lines, the row's number. A byte order mark and CRLF line ends are accepted everywhere.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.data.arrow import read_arrow, read_parquet
from ctxtune.data.files import Files, find_files
from ctxtune.data.objects import kind, read_json, read_jsonl
from ctxtune.data.open import open_lines, said_name
from ctxtune.data.table import read_csv, read_tsv
from ctxtune.errors import DataError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


@dataclass(frozen=True)
class Row:
    """One example as it was read; `source` is the file as the user named it, `line` counts from 1, in lines or rows."""

    fields: dict[str, object]
    source: str
    line: int
    unit: str = "line"

    @property
    def where(self) -> str:
        """How an error names this row."""
        return f"{self.source} {self.unit} {self.line}"


def read_rows(name: Path | str, fmt: str | None = None) -> list[Row]:
    """Every row behind a name, in order. `fmt` (jsonl, json, csv, tsv, txt) overrules a file's suffix."""
    return read_files(find_files(name, fmt))


def read_files(files: Files) -> list[Row]:
    """Every row of some files, in order."""
    rows = [row for path in files.paths for row in _rows_of(path, files)]
    if not rows:
        raise DataError(f"{said_name(files.name)} has no rows", "give a file with at least one example")
    return rows


def _rows_of(path: Path, files: Files) -> list[Row]:
    source = said_name(path)
    if files.format == "texts":
        with open_lines(path) as lines:
            text = "".join(lines).rstrip("\r\n")
        name = os.fsencode(files.short(path)).decode("utf-8", "replace")  # file names are bytes, fields are text
        return [Row({"text": text, "file": name}, source, 1)] if text.strip() else []
    rows = list(stream_rows(path, files))
    if len({row.line for row in rows}) == len(rows):
        return rows
    return [Row(row.fields, source, number, "row") for number, row in enumerate(rows, 1)]


def stream_rows(path: Path, files: Files) -> Iterator[Row]:
    """The rows of one file, one at a time: as many as there are, they need no more memory than the longest of them."""
    source = said_name(path)
    if files.format in COLUMNS:
        yield from (Row(fields, source, number, "row") for number, fields in COLUMNS[files.format](path))
        return
    with open_lines(path) as lines:
        yield from (Row(fields, source, line) for line, fields in READERS[files.format](lines, source))


def check_types(rows: Sequence[Row], names: Iterable[str]) -> None:
    """Refuse a field that is, say, text in one row and a number in another; null counts as missing."""
    for name in names:
        first: tuple[Row, str] | None = None
        for row in rows:
            value = row.fields.get(name)
            if value is None:
                continue
            now = kind(value)
            if first is None:
                first = row, now
            elif now != first[1]:
                there = first[0]
                place = f"on {there.unit} {there.line}" if there.source == row.source else f"in {there.where}"
                raise DataError(
                    f"{row.where}: field {name!r} is {now}, but {place} it is {first[1]}",
                    f"write {name!r} the same way in every row",
                )


def spool_stdin(target: Path) -> Path:
    """Copy standard input to `target` in one step, so that a run can name, hash and read its examples again."""
    source = getattr(sys.stdin, "buffer", None)
    if source is None or source.closed or source.isatty():
        raise DataError("standard input holds no data", "pipe JSON lines into the command, or name a file")
    handle, name = -1, ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with open(handle, "wb") as stream:
            while piece := source.read(1 << 20):
                stream.write(piece)
            stream.flush()
            os.fsync(handle)
            if stream.tell() == 0:
                raise DataError("standard input is empty", "pipe JSON lines into the command, or name a file")
        os.replace(name, target)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        if name:
            Path(name).unlink(missing_ok=True)
    return target


def hash_stdin() -> str | None:
    """The sha256 of what comes through a pipe; None where nothing does."""
    source = getattr(sys.stdin, "buffer", None)
    if source is None or source.closed or source.isatty():
        return None
    digest, size = hashlib.sha256(), 0
    while piece := source.read(1 << 20):
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest() if size else None


def _read_txt(lines: Iterator[str], source: str) -> Iterator[tuple[int, dict[str, object]]]:
    for line, text in enumerate(lines, 1):
        if text.strip():
            yield line, {"text": text.rstrip("\r\n")}


COLUMNS: dict[str, Callable[[Path], Iterator[tuple[int, dict[str, object]]]]] = {
    "parquet": read_parquet,
    "arrow": read_arrow,
}
READERS: dict[str, Callable[[Iterator[str], str], Iterator[tuple[int, dict[str, object]]]]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "txt": _read_txt,
}
