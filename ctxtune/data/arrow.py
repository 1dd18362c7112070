"""Rows kept as arrow columns, in parquet or arrow files: plain values only, and no more than the file's size allows.

A column that says one text a million times, or a list of a milliard nulls, is a few bytes of parquet. So what the file
declares is held against its size before anything is read (`open.most_bytes`), and then what comes out, counted as

    bytes of the columns + WORD for each value, those in lists and structs included + ROW for each row

because a value costs Python a pointer and a row a dictionary, however little they cost on disk.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ctxtune.data.open import most_bytes, open_file, too_much
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

ROW, WORD = 64, 8  # bytes
BATCH = 256  # rows decoded at once
MAX_DEPTH = 32  # of lists and structs in each other


def read_parquet(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Each row's number and fields.

    Raises:
        DataError: no parquet, damaged, of other types than text, numbers, truth values, lists and structs, or too much.
    """
    source = str(path)
    parquet = _library("pyarrow.parquet", source)
    with _explained(source), open_file(path) as raw:
        if raw.read(4) != b"PAR1":
            raise DataError(f"{source} is no parquet file", "is it what its name says it is?")
        most = most_bytes(os.fstat(raw.fileno()).st_size)
        file = parquet.ParquetFile(raw)
        facts = file.metadata
        declared = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
        if max(0, facts.num_rows) * ROW + declared > most:
            raise too_much(source, most)
        yield from _rows(file.iter_batches(batch_size=BATCH, use_threads=False), file.schema_arrow, source, most)


def read_arrow(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """The same of an arrow stream, as `datasets` saves them.

    Raises:
        DataError: no arrow stream, damaged, packed, of other types, or too much.
    """
    source = str(path)
    ipc = _library("pyarrow.ipc", source)
    with _explained(source), open_file(path) as raw:
        most = most_bytes(os.fstat(raw.fileno()).st_size)
        if any(_is_packed(message) for message in ipc.MessageReader.open_stream(raw)):
            raise DataError(f"{source} holds packed columns", "save it unpacked, or as parquet")
        raw.seek(0)
        stream = ipc.open_stream(raw)
        yield from _rows(stream, stream.schema, source, most)


def _is_packed(message: Any) -> bool:
    """Whether a record batch is compressed: its table `RecordBatch` has its fourth field (arrow's Message.fbs).

    A flatbuffer table begins with the distance back to its list of fields: two bytes for the list's length, two for the
    table's, then two a field, the distance from the table's start or 0. `Message` has version, header_type, header."""
    if message.type != "record batch":
        return False
    data = memoryview(message.metadata.to_pybytes())
    table = int.from_bytes(data[:4], "little")
    header = _field(data, table, 2)
    if not header:
        return True
    return bool(_field(data, header + int.from_bytes(data[header : header + 4], "little"), 3))


def _field(data: memoryview, table: int, number: int) -> int:
    """Where a field of a table stands, or 0."""
    fields = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    length = int.from_bytes(data[fields : fields + 2], "little")
    at = fields + 4 + 2 * number
    place = int.from_bytes(data[at : at + 2], "little") if 4 + 2 * number < length else 0
    return table + place if place else 0


def _rows(batches: Iterable[Any], schema: Any, source: str, most: int) -> Iterator[tuple[int, dict[str, object]]]:
    _check_names([field.name for field in schema], source)
    for field in schema:
        _check_type(field.type, field.name, source)
    number = cost = 0
    for batch in batches:
        batch.validate(full=True)  # offsets that lead elsewhere would be followed otherwise
        cost += batch.num_rows * ROW + sum(_cost(column) for column in batch.columns)
        if cost > most:
            raise too_much(source, most)
        for fields in batch.to_pylist():
            number += 1
            _check_finite(fields, f"{source} row {number}")
            yield number, fields


def _cost(column: Any) -> int:
    """The bytes of a column and a word for each of its values. Flattened, a list holds what its rows refer to."""
    types = _library("pyarrow.types", "")
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    own: int = column.nbytes + WORD * len(column)
    if types.is_struct(column.type):
        return own + sum(_cost(child) for child in column.flatten())
    if types.is_nested(column.type):
        return own + _cost(column.flatten())
    return own


def _check_type(kind: Any, name: str, source: str, depth: int = 0) -> None:
    types = _library("pyarrow.types", source)
    if depth > MAX_DEPTH:
        raise DataError(f"{source}: column {name!r} is nested deeper than {MAX_DEPTH} levels")
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        children = [kind.field(i) for i in range(kind.num_fields)]
        _check_names([child.name for child in children], f"{source}: column {name!r}")
        for child in children:
            _check_type(child.type, f"{name}.{child.name}", source, depth + 1)
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        _check_type(kind.value_type, name, source, depth + 1)
    elif not any(
        check(kind)
        for check in (
            types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string
        )
    ):  # fmt: skip
        raise DataError(
            f"{source}: column {name!r} holds {str(kind)[:60]}", "write it as text or numbers, or leave the column out"
        )


def _check_names(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{where} names {name!r} twice", "give every column a name of its own")


def _check_finite(value: object, where: str, name: str = "") -> None:
    """As in JSON: a not-a-number in a row is a mistake that would go on silently."""
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where}: column {name!r} is {value}", "write null where there is no number")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_finite(inner, where, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for inner in value:
            _check_finite(inner, where, name)


def _library(name: str, source: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(f"{source} needs the library pyarrow to be read", "pip install 'ctxtune[data]'") from error


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """What the library says of a damaged file, on one line."""
    arrow = _library("pyarrow", source)
    try:
        yield
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:150]
        raise DataError(f"{source} cannot be read: {said}", "is the file whole?") from error
