"""A corpus read piece by piece says what its files say, and holds out their ends."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ctxtune.data import documents as module
from ctxtune.data.documents import Piece, documents, files_of, survey
from ctxtune.data.documents import whole as documents_of
from ctxtune.data.files import find_files
from ctxtune.data.render import compile_template
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

TEXT = compile_template("{{ text }}", "data.text")


def read(*paths: Path, held_out: float | None = None) -> list[Piece]:
    files = files_of([find_files(path) for path in paths])
    sizes = survey(files, TEXT) if held_out is not None else None
    return list(documents(files, TEXT, sizes, held_out or 0.0))


def whole(pieces: list[Piece]) -> list[str]:
    """The documents, put together again."""
    found: list[str] = []
    for piece in pieces:
        if piece.begins:
            found.append("")
        found[-1] += piece.text
    return found


def test_a_text_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n\n  Indented.\r\nSecond\n\n\nThird\n\n\n")
    assert whole(read(path)) == ["  Indented.\nSecond\n\n\nThird\n"]


def test_a_folder_and_rows_are_several(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text(f"{name} one\n{name} two", encoding="utf-8")
    rows = tmp_path / "rows.jsonl.gz"
    lines = "".join(json.dumps({"text": text}) + "\n" for text in ("x", "  ", "y\nz"))
    rows.write_bytes(gzip.compress(lines.encode()))
    assert whole(read(folder, rows)) == ["a one\na two", "b one\nb two", "x", "y\nz"]


def test_pieces_end_where_a_line_does_and_a_word_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 20)
    path = tmp_path / "a.txt"
    text = "".join(f"line {number} of many\n{'' if number % 3 else '   set in'}\n" for number in range(50))
    path.write_text(text, encoding="utf-8")
    pieces = read(path)
    assert len(pieces) > 5
    assert "".join(piece.text for piece in pieces) == text.rstrip("\n") + "\n"
    assert [piece.begins for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    for before, after in pairwise(pieces):
        assert before.text[-1] == "\n"
        assert not before.text[-2].isspace()
        assert not after.text[0].isspace()


def test_the_end_of_each_file_is_held_out_by_whole_lines(tmp_path: Path) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_text("".join(f"{path.stem} {number:04}\n" for number in range(100)), encoding="utf-8")
    pieces = read(*paths, held_out=0.1)
    assert [(piece.held, piece.begins) for piece in pieces] == [(False, True), (True, True)] * 2
    assert pieces[1].text.splitlines()[0] == "a 0090"
    assert pieces[0].text + pieces[1].text == paths[0].read_text(encoding="utf-8")


def test_of_rows_the_last_are_held_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(10)), encoding="utf-8")
    held = [piece.text for piece in read(path, held_out=0.2) if piece.held]
    assert held == ["row 8", "row 9"]


@pytest.mark.parametrize("text", ["", "\n\n \n"])
def test_no_text_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="holds no text"):
        read(path, held_out=0.1)


def test_a_line_without_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST", 1000)
    path = tmp_path / "a.txt"
    path.write_text("word " * 300, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.txt: a line.* of more than 1,000 characters"):
        read(path)


def test_a_row_without_the_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"body": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl line 2"):
        read(path)


def test_documents_are_put_together_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 20)
    book, rows = tmp_path / "a.txt", tmp_path / "rows.jsonl"
    book.write_text("".join(f"line {number} of many\n" for number in range(50)), encoding="utf-8")
    rows.write_text("".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(10)), encoding="utf-8")
    kept, held = documents_of(files_of([find_files(book), find_files(rows)]), TEXT)
    assert [row.fields["text"] for row in kept] == [book.read_text(encoding="utf-8"), *(f"row {i}" for i in range(10))]
    assert [row.where for row in kept[:2]] == [f"{book} document 1", f"{rows} document 1"]
    assert held == []
    kept, held = documents_of(files_of([find_files(book), find_files(rows)]), TEXT, 0.1)
    assert [row.fields["text"] for row in held] == ["".join(f"line {i} of many\n" for i in range(45, 50)), "row 9"]
    assert kept[0].fields["text"] + str(held[0].fields["text"]) == book.read_text(encoding="utf-8")
