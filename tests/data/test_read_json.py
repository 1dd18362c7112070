"""A list of JSON objects, walked row by row: what the standard library reads, and the place of whatever is wrong."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from ctxtune.data.read import read_rows
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [{"text": "ä", "n": 1}, {"text": "b\nc", "l": [True, None, {"x": 2.5}]}, {"text": "]}", "n": -3}]


def write(folder: Path, content: bytes | str, name: str = "a.json") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_rows_are_those_of_the_standard_library(tmp_path: Path, indent: int | None, wrapped: bool) -> None:
    whole = {"data": ROWS} if wrapped else ROWS
    for ensure_ascii in (False, True):
        path = write(tmp_path, json.dumps(whole, indent=indent, ensure_ascii=ensure_ascii) + "\n")
        assert [row.fields for row in read_rows(path)] == ROWS


def test_a_row_is_named_by_its_line_or_by_its_number(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, '\n[\n  {"a": 1}, \n\n {"a":\n 2},\r\n{"a": 3}]'))
    assert [row.where for row in rows] == [f"{tmp_path}/a.json line {line}" for line in (3, 5, 7)]
    rows = read_rows(write(tmp_path, '[{"a": 1}, {"a": 2},\n{"a": 3}]'))
    assert [row.where for row in rows] == [f"{tmp_path}/a.json row {row}" for row in (1, 2, 3)]


def test_a_byte_order_mark_and_a_single_row(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, b'\xef\xbb\xbf { "data" : [ {"a": 1} ] } '))[0].fields == {"a": 1}
    assert read_rows(write(tmp_path, '[{"a": 1}]', "A.JSON"))[0].line == 1


UNKIND: list[tuple[bytes, str]] = [
    (b"", "has no rows"),
    (b" \n", "has no rows"),
    (b"[]", "has no rows"),
    (b'{"data": []}', "has no rows"),
    (b'{"a": 1}', "line 1: this is no list of objects"),
    (b'{"version": 1, "data": []}', "line 1: this is no list of objects"),
    (b'\n\n"text"', "line 3: this is no list of objects"),
    (b'{"data": {"a": 1}}', "line 1: this is no list of objects"),
    (b'{"a": 1}\n{"a": 2}\n', "line 1: this is no list of objects"),
    (b"[1]", r"line 1 \(row 1\): a number, not a JSON object"),
    (b'[{"a": 1},\n["a"]]', r"line 2 \(row 2\): a list, not a JSON object"),
    (b'[{"a": 1},\n null]', r"line 2 \(row 2\): null, not a JSON object"),
    (b'[{"a": 1},\n]', r"line 2 column 1: broken JSON: Expecting value"),
    (b'[{"a": 1}, {"b": }]', r"line 1 column 18: broken JSON: Expecting value"),
    (b'[{"a": 1}\n{"b": 2}]', r"line 2: '\{' stands where '\]' should"),
    (b'[{"a": 1}', r"line 1: the file ends where '\]' should"),
    (b'[{"a": 1},\n {"b": "x', r"line 2 column 8: broken JSON: Unterminated string starting"),
    (b'[{"a": 1},', r"line 1 column 11: broken JSON: Expecting value"),
    (b"[", r"line 1 column 2: broken JSON: Expecting value"),
    (b'{"data": [{"a": 1}]', r"line 1: the file ends where '\}' should"),
    (b'{"data": [{"a": 1}], "version": 1}', r"line 1: ',' stands where '\}' should"),
    (b'[{"a": 1}]\n[{"a": 2}]', "line 2: more stands behind the list of rows"),
    (b'[{"a": 1, "a": 2}]', r"line 1 \(row 1\): the key 'a' stands twice"),
    (b'[{"a": 1},\n{"b": {"c": 1, "c": 2}}]', r"line 2 \(row 2\): the key 'c' stands twice"),
    (b'[{"a": NaN}]', r"\(row 1\): NaN is not JSON"),
    (b'[{"a": 1e999}]', r"\(row 1\): the number 1e999 is too large"),
    (b'[{"a": ' + b"9" * 5000 + b"}]", r"\(row 1\): a number of 5,000 digits is too large"),
    (b"[" * 100_000, r"\(row 1\): the JSON is nested too deeply"),
    (b'[{"a":' * 50_000, r"\(row 1\): the JSON is nested too deeply"),
    (b'[{"a": "\\ud800"}]', r"\(row 1\): half of a surrogate pair"),
    (b'[{"a": "b\0"}]', "line 1: a NUL byte at byte 9 of the file"),
    (b'[{"a": "\xe4"}]', "line 1: byte 0xe4 at byte 8 of the file is not UTF-8"),
    ('[{"a": 1}]'.encode("utf-16"), "is UTF-16 text"),
    (b"PAR1\x15\x04", "is parquet"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), UNKIND, ids=range(len(UNKIND)))
def test_unkind_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_spoilt_files_are_refused_exactly_where_the_standard_library_refuses_them(tmp_path: Path) -> None:
    whole, chance, refused = json.dumps(ROWS, indent=1), random.Random(0), 0
    for _ in range(250):
        at = chance.randrange(len(whole))
        spoilt = whole[:at] + chance.choice(["", ",", "]", "{", '"', "1", "\n"]) + whole[at + chance.randrange(3) :]
        path = write(tmp_path, spoilt)
        try:
            value = json.loads(spoilt)
        except ValueError:
            refused += 1
            with pytest.raises(DataError):
                read_rows(path)
            continue
        if isinstance(value, list) and all(isinstance(row, dict) for row in value):
            assert [row.fields for row in read_rows(path)] == value
    assert refused > 120
