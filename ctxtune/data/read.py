"""Rows of a data file, each with the line it stands on, or an error that names the file and the line.

    .jsonl .ndjson   one JSON object a line: UTF-8, unique keys, no NaN, no blank line but at the end
    .csv .tsv        a header line, then cells; a quoted cell may run over several lines
    .txt             one row a line, in the field `text`; blank lines hold nothing and make no row

A row's line is the line of the file on which it starts. A byte order mark and CRLF line ends are accepted everywhere.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
import os
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ctxtune.errors import DataError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MAX_DIGITS = 308  # of an integer: more than any other reader of JSON keeps
MAX_CELL = 1 << 26  # characters in a csv cell: enough for a book, not for a runaway quote in a large file
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One example as it was read; `source` is the file as the user named it, `line` counts from 1."""

    fields: dict[str, object]
    source: str
    line: int

    @property
    def where(self) -> str:
        """How an error names this row."""
        return f"{self.source} line {self.line}"


def read_rows(path: Path | str, fmt: str | None = None) -> list[Row]:
    """Every row of a file, in order. `fmt` (jsonl, csv, tsv, txt) overrules the suffix."""
    source = str(path)
    try:
        with open_file(path) as stream:
            rows = list(READERS[fmt or _format_of(Path(path))](_lines(stream, source), source))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if not rows:
        raise DataError(f"{path} has no rows", "give a file with at least one example")
    return rows


def check_types(rows: Sequence[Row], names: Iterable[str]) -> None:
    """Refuse a field that is, say, text in one row and a number in another; null counts as missing."""
    for name in names:
        first: tuple[Row, str] | None = None
        for row in rows:
            value = row.fields.get(name)
            if value is None:
                continue
            kind = _kind(value)
            if first is None:
                first = row, kind
            elif kind != first[1]:
                raise DataError(
                    f"{row.where}: field {name!r} is {kind}, but on line {first[0].line} it is {first[1]}",
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


def open_file(path: Path | str) -> BinaryIO:
    """The file in bytes; a folder, a device or a missing file is refused with what the user may have meant."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path} does not exist", _nearest(Path(path))) from error
    except ValueError as error:  # a NUL byte in the name
        raise DataError(f"{str(path)!r} is not a file name") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is a folder, not a file", _inside(Path(path)))
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is not a regular file", "save it to a file first, or pipe it in and name it -")
    return open(path, "rb")


def _format_of(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        said = f"the suffix {suffix!r} names no known format" if suffix else "a name without a suffix tells no format"
        raise DataError(f"{path}: {said}", f"the known ones are {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def _nearest(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f"the folder {path.parent} does not exist or cannot be read"
    near = difflib.get_close_matches(path.name, names, n=3)
    if near:
        return f"did you mean {' or '.join(near)}"
    data = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
    return f"{path.parent} has {', '.join(data[:5])}" if data else f"{path.parent} has no data files"


def _inside(folder: Path) -> str:
    try:
        data = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES)
    except OSError:
        data = []
    return f"name one of its files: {', '.join(data[:5])}" if data else "name a data file"


def _lines(stream: Iterable[bytes], source: str) -> Iterator[str]:
    """The file's lines as text, ends included; bytes that are no text are refused with their place."""
    offset = 0
    for line, raw in enumerate(stream, 1):
        if line == 1:
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{source} is UTF-16 text", "save it as UTF-8")
            if raw.startswith(BOM):
                offset += len(BOM)
                raw = raw[len(BOM) :]
        if (at := raw.find(b"\0")) >= 0:
            raise DataError(
                f"{source} line {line}: a NUL byte at byte {offset + at} of the file", "this looks like a binary file"
            )
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{source} line {line}: byte 0x{raw[error.start]:02x} at byte {offset + error.start} of the file"
                " is not UTF-8",
                "save the file as UTF-8",
            ) from error
        offset += len(raw)
        yield text


def _read_jsonl(lines: Iterator[str], source: str) -> Iterator[Row]:
    blank = 0  # the first of a run of blank lines; harmless at the end of the file only
    for line, text in enumerate(lines, 1):
        if not text.strip():
            blank = blank or line
            continue
        if blank:
            raise DataError(f"{source} line {blank}: a blank line between rows", "remove it")
        yield Row(_object(text, f"{source} line {line}"), source, line)


def _object(text: str, where: str) -> dict[str, object]:
    try:
        value = DECODER.decode(text.rstrip("\r\n"))
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        hint = "each line holds one whole JSON object" if text.strip() in "[{" else None
        raise DataError(f"{where} column {error.colno}: broken JSON: {error.msg.removesuffix(' at')}", hint) from error
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: half of a surrogate pair, written \\ud800 to \\udfff, is not text") from error
    except RecursionError as error:
        raise DataError(f"{where}: the JSON is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: {_kind(value)}, not a JSON object", 'write {"text": ..., "label": ...}')
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return fields


def _not_finite(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits} is too large")
    return value


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits is too large")
    return int(digits)


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_not_finite, parse_float=_finite, parse_int=_whole)


def _read_table(lines: Iterator[str], source: str, dialect: str) -> Iterator[Row]:
    before = csv.field_size_limit(MAX_CELL)
    try:
        yield from _cells(lines, source, dialect)
    finally:
        csv.field_size_limit(before)


def _cells(lines: Iterator[str], source: str, dialect: str) -> Iterator[Row]:
    header: list[str] | None = None
    blank = 0
    for line, cells in _records(lines, source, dialect):
        if not cells:
            blank = blank or line
            continue
        if blank:
            raise DataError(f"{source} line {blank}: a blank line between rows", "remove it")
        if header is None:
            header = _header(cells, f"{source} line {line}")
            continue
        if len(cells) != len(header):
            raise DataError(
                f"{source} line {line}: {len(cells)} cells where the header has {len(header)}",
                "quote a cell that holds the separator, a quote or a line break",
            )
        yield Row(dict(zip(header, cells, strict=True)), source, line)


def _records(lines: Iterator[str], source: str, dialect: str) -> Iterator[tuple[int, list[str]]]:
    """The records with the line each starts on: a quoted cell may have run over many lines before."""
    reader = csv.reader(lines, dialect, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            said, _, _ = str(error).partition(" - ")  # behind it stands advice for programmers
            hint = 'a cell that holds a quote is quoted as a whole, its inner quotes doubled: "say ""yes"""'
            if said.startswith("new-line"):
                hint = "save the file with LF or CRLF line ends"
            raise DataError(f"{source} line {line}: {said}", hint) from error
        yield line, cells


def _header(names: list[str], where: str) -> list[str]:
    if "" in (name.strip() for name in names):
        raise DataError(f"{where}: column {[name.strip() for name in names].index('') + 1} of the header has no name")
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{where}: the header names {name!r} twice", "give every column a name of its own")
    return names


def _read_csv(lines: Iterator[str], source: str) -> Iterator[Row]:
    return _read_table(lines, source, "excel")


def _read_tsv(lines: Iterator[str], source: str) -> Iterator[Row]:
    return _read_table(lines, source, "excel-tab")


def _read_txt(lines: Iterator[str], source: str) -> Iterator[Row]:
    for line, text in enumerate(lines, 1):
        if text.strip():
            yield Row({"text": text.rstrip("\r\n")}, source, line)


def _kind(value: object) -> str:
    """A JSON value's type in words; `bool` first, as it is an `int` to Python."""
    for types, word in KINDS:
        if isinstance(value, types):
            return word
    return "null"


KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, "text"),
    (bool, "true or false"),
    ((int, float), "a number"),
    (list, "a list"),
    (dict, "an object"),
)
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "txt"}
READERS: dict[str, Callable[[Iterator[str], str], Iterator[Row]]] = {
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "txt": _read_txt,
}
