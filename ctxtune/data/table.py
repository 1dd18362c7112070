"""Tables, .csv and .tsv: a header line, then rows of cells; a quoted cell may run over several lines."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CELL = 1 << 26  # characters in a cell: enough for a book, not for a runaway quote in a large file


def read_csv(lines: Iterator[str], source: str) -> Iterator[tuple[int, dict[str, object]]]:
    """The rows of a comma-separated table, and the line on which each starts."""
    return _read(lines, source, "excel")


def read_tsv(lines: Iterator[str], source: str) -> Iterator[tuple[int, dict[str, object]]]:
    """The same, separated by tabs."""
    return _read(lines, source, "excel-tab")


def _read(lines: Iterator[str], source: str, dialect: str) -> Iterator[tuple[int, dict[str, object]]]:
    before = csv.field_size_limit(MAX_CELL)
    try:
        yield from _cells(lines, source, dialect)
    finally:
        csv.field_size_limit(before)


def _cells(lines: Iterator[str], source: str, dialect: str) -> Iterator[tuple[int, dict[str, object]]]:
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
        yield line, dict(zip(header, cells, strict=True))


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
