from __future__ import annotations

import csv
import io
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.data.read import Row, check_types, read_rows, spool_stdin
from ctxtune.errors import DataError, StorageError

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fields(path: Path) -> list[dict[str, object]]:
    return [row.fields for row in read_rows(path)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, '{"text": "ä", "n": 1, "f": 2.5, "l": [true, null]}\n{"text": "b\\nc"}\n')
    rows = read_rows(path)
    assert rows[0] == Row({"text": "ä", "n": 1, "f": 2.5, "l": [True, None]}, str(path), 1)
    assert rows[1].fields == {"text": "b\nc"}
    assert rows[1].where == f"{path} line 2"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.jsonl", b'\xef\xbb\xbf{"text": "a"}\n'),
        ("crlf.jsonl", b'{"text": "a"}\r\n\r\n'),
        ("no-end.jsonl", b'{"text": "a"}'),
        ("trailing.jsonl", b'{"text": "a"}\n\n  \n\n'),
        ("bom.csv", b"\xef\xbb\xbftext\r\na\r\n"),
        ("trailing.csv", b"text\na\n\n\n"),
        ("bom.tsv", b"\xef\xbb\xbftext\na"),
        ("bom.txt", b"\xef\xbb\xbfa\r\n"),
    ],
)
def test_marks_line_ends_and_blank_tails_are_no_content(tmp_path: Path, name: str, content: bytes) -> None:
    assert fields(write(tmp_path, name, content)) == [{"text": "a"}]


def test_only_line_feeds_end_a_line_of_json(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "one\u2028two\x85three"}\n{"text": "four"}\n')
    assert [(row.line, row.fields["text"]) for row in read_rows(path)] == [(1, "one\u2028two\x85three"), (2, "four")]


def test_text_is_a_row_a_line_without_the_blank_ones(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.txt", "  one\t \n\n \r\ntwo\n"))
    assert [(row.line, row.fields) for row in rows] == [(1, {"text": "  one\t "}), (4, {"text": "two"})]


def test_a_text_may_begin_as_a_parquet_file_does(tmp_path: Path) -> None:
    assert fields(write(tmp_path, "a.csv", "PAR1,PAR2\n1,2\n")) == [{"PAR1": "1", "PAR2": "2"}]


def test_csv_and_tsv(tmp_path: Path) -> None:
    expected = [{"text": "a, b", "label": "x"}, {"text": 'say "yes"', "label": ""}]
    assert fields(write(tmp_path, "a.csv", 'text,label\n"a, b",x\n"say ""yes""",\n')) == expected
    assert fields(write(tmp_path, "a.tsv", 'text\tlabel\na, b\tx\n"say ""yes"""\t\n')) == expected


def test_a_cell_over_several_lines_keeps_the_line_numbers_right(tmp_path: Path) -> None:
    text = 'text,label\r\n"one\r\n\r\nthree",a\r\nfour,b\r\n"five\nsix",c\r\n'
    rows = read_rows(write(tmp_path, "a.csv", text))
    assert [row.line for row in rows] == [2, 5, 6]
    assert rows[0].fields == {"text": "one\r\n\r\nthree", "label": "a"}
    with pytest.raises(DataError, match=r"b\.csv line 8: 1 cells where the header has 2"):
        read_rows(write(tmp_path, "b.csv", text + "short\r\n"))


def test_a_long_cell_is_read_and_the_limit_of_the_csv_module_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit(1000)
    try:
        assert fields(write(tmp_path, "a.csv", "text\n" + "x" * 200_000)) == [{"text": "x" * 200_000}]
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_the_format_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path, "spooled", '{"text": "a"}\n')
    assert read_rows(path, "jsonl")[0].fields == {"text": "a"}
    assert read_rows(str(path), "txt")[0].fields == {"text": '{"text": "a"}'}


SURROGATE = b'{"text": "\\ud800"}\n'
UNKIND: list[tuple[str, bytes, str]] = [
    ("broken.jsonl", b'{"text": "a"}\n{"text": }\n', r"line 2 column 10: broken JSON: Expecting value"),
    ("open.jsonl", b'{"text": "a\n', r"line 1 column 10: broken JSON"),
    ("two.jsonl", b'{"a": 1}{"b": 2}\n', r"line 1 column 9: broken JSON: Extra data"),
    ("pretty.jsonl", b'[\n{"a": 1}\n]\n', r"line 1 column 2: broken JSON"),
    ("list.jsonl", b'{"a": 1}\n["a"]\n', r"line 2: a list, not a JSON object"),
    ("number.jsonl", b"3\n", r"line 1: a number, not a JSON object"),
    ("null.jsonl", b"null\n", r"line 1: null, not a JSON object"),
    ("twice.jsonl", b'{"a": 1, "b": {"c": 1, "c": 2}}\n', r"line 1: the key 'c' stands twice"),
    ("nan.jsonl", b'{"a": NaN}\n', r"line 1: NaN is not JSON"),
    ("infinity.jsonl", b'{"a": [-Infinity]}\n', r"line 1: -Infinity is not JSON"),
    ("large.jsonl", b'{"a": 1e999}\n', r"line 1: the number 1e999 is too large"),
    ("digits.jsonl", b'{"a": ' + b"9" * 5000 + b"}\n", r"line 1: a number of 5,000 digits is too large"),
    ("deep.jsonl", b"[" * 100_000 + b"\n", r"line 1: the JSON is nested too deeply"),
    ("surrogate.jsonl", SURROGATE, r"line 1: half of a surrogate pair"),
    ("key.jsonl", b'{"\\udc00": 1}\n', r"line 1: half of a surrogate pair"),
    ("blank.jsonl", b'{"a": 1}\n\n\n{"a": 2}\n', r"line 2: a blank line between rows"),
    ("latin.jsonl", b'{"a": 1}\n{"a": "\xe4"}\n', r"line 2: byte 0xe4 at byte 16 of the file is not UTF-8"),
    ("bom-latin.txt", b"\xef\xbb\xbfab\n\xff\n", r"line 2: byte 0xff at byte 6 of the file is not UTF-8"),
    ("nul.txt", b"one\ntw\0o\n", r"line 2: a NUL byte at byte 6 of the file"),
    ("utf16.csv", "text\na\n".encode("utf-16"), r"utf16.csv is UTF-16 text"),
    ("empty.jsonl", b"", r"empty.jsonl has no rows"),
    ("empty.csv", b"", r"empty.csv has no rows"),
    ("blanks.txt", b"\n \n\n", r"blanks.txt has no rows"),
    ("header.csv", b"text,label\n", r"header.csv has no rows"),
    ("cells.csv", b"text,label\na,b\na,b,c\n", r"line 3: 3 cells where the header has 2"),
    ("twice.csv", b"text,text\na,b\n", r"line 1: the header names 'text' twice"),
    ("nameless.csv", b"text, ,label\na,b,c\n", r"line 1: column 2 of the header has no name"),
    ("blank.csv", b"text,label\na,b\n\na,b\n", r"line 3: a blank line between rows"),
    ("quote.csv", b'text,label\na,b\n"never closed,b\nc,d\n', r"line 3: unexpected end of data"),
    ("inner.csv", b'text,label\n"a"b,c\n', r"line 2: ',' expected after '\"'"),
    ("mac.csv", b"text,label\ra,b\rc,d", r"line 1: new-line character seen in unquoted field$"),
    ("data.xlsx", b"PK\x03\x04", r"the suffix '\.xlsx' names no known format"),
    ("noname", b"{}", r"a name without a suffix tells no format"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), UNKIND, ids=[name for name, _, _ in UNKIND])
def test_unkind_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert not said.endswith(".")


def test_a_pair_of_surrogates_is_a_letter(tmp_path: Path) -> None:
    assert fields(write(tmp_path, "a.jsonl", '{"text": "\\ud83d\\ude00"}\n')) == [{"text": "😀"}]


def test_missing_files_get_the_nearest_names(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", "{}")
    with pytest.raises(DataError, match=r"trian\.jsonl does not exist") as caught:
        read_rows(tmp_path / "trian.jsonl")
    assert caught.value.hint == "did you mean train.jsonl"
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "zzz.csv")
    assert caught.value.hint == f"{tmp_path} has train.jsonl"
    write(tmp_path, "bin.jsonl", "{}")
    for name, hint in {
        "missing.jsonl": " has bin.jsonl, train.jsonl",
        "train.json": "did you mean train.jsonl",
    }.items():
        with pytest.raises(DataError) as caught:
            read_rows(tmp_path / name)
        assert str(caught.value.hint).endswith(hint)
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "no" / "zzz.csv")
    assert caught.value.hint is not None
    assert "no does not exist" in caught.value.hint
    with pytest.raises(DataError, match="does not exist"):
        read_rows(tmp_path / "train.jsonl" / "inside.csv")


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "in.csv", "a\nb\n")
    with pytest.raises(DataError, match="is a folder") as caught:
        read_rows(tmp_path)
    assert caught.value.hint == "name one of its files: in.csv"
    with pytest.raises(DataError, match="/dev/null is not a regular file"):
        read_rows("/dev/null")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="is not a regular file"):
        read_rows(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    with pytest.raises(DataError, match=r"loop\.jsonl cannot be read"):
        read_rows(tmp_path / "loop.jsonl")
    with pytest.raises(DataError, match="is not a file name"):
        read_rows("a\0.jsonl")
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        read_rows(tmp_path / ("a" * 300 + ".jsonl"))


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "a.jsonl", "{}")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"a\.jsonl cannot be read: Permission denied"):
        read_rows(path)


def rows_of(*values: object) -> list[Row]:
    return [Row({"label": value} if value != "absent" else {}, "f.jsonl", line) for line, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("a", "absent", None, 1), r"f\.jsonl line 4: field 'label' is a number, but on line 1 it is text"),
        ((None, 1, True), r"f\.jsonl line 3: field 'label' is true or false, but on line 2 it is a number"),
        (([1], {"a": 1}), r"f\.jsonl line 2: field 'label' is an object, but on line 1 it is a list"),
    ],
)
def test_a_field_has_one_type(values: tuple[object, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_types(rows_of(*values), ["label"])


def test_whole_and_broken_numbers_are_one_type_and_other_fields_are_free() -> None:
    check_types(rows_of(1, 2.5, None), ["label"])
    check_types(rows_of("a", 1), ["text"])


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_becomes_a_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b'{"a": 1}\n\xff')
    target = spool_stdin(tmp_path / "run" / "train.jsonl")
    assert target.read_bytes() == b'{"a": 1}\n\xff'
    assert target.stat().st_mode & 0o077 == 0
    assert [entry.name for entry in target.parent.iterdir()] == ["train.jsonl"]


def test_empty_or_missing_standard_input_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"")
    with pytest.raises(DataError, match="standard input is empty"):
        spool_stdin(tmp_path / "train.jsonl")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input holds no data"):
        spool_stdin(tmp_path / "train.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_spooling_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    target = write(tmp_path, "train.jsonl", "old")
    feed(monkeypatch, b"new")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"train\.jsonl cannot be written: No space left on device"):
        spool_stdin(target)
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.jsonl"]
