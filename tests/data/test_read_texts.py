"""A folder of texts: every .txt below it is a row, in the order of their names, and nothing from outside is."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from ctxtune.data import files as files_module
from ctxtune.data.files import find_files
from ctxtune.data.hash import sha256_files
from ctxtune.data.read import Row, read_rows
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "b" / "deep").mkdir(parents=True)
    (folder / "b" / "deep" / "two.txt").write_bytes(b"\xef\xbb\xbftwo\r\n\r\nlines\r\n")
    (folder / "a.txt").write_text("ä\n", encoding="utf-8")
    (folder / "c.TXT").write_text("three", encoding="utf-8")
    (folder / "d.txt.gz").write_bytes(gzip.compress(b"four\n"))
    (folder / "empty.txt").write_text(" \n", encoding="utf-8")
    (folder / "notes.md").write_bytes(b"\xff\0")
    return folder


def test_every_text_below_is_a_row(corpus: Path) -> None:
    assert read_rows(corpus) == [
        Row({"text": "ä", "file": "a.txt"}, f"{corpus}/a.txt", 1),
        Row({"text": "two\r\n\r\nlines", "file": "b/deep/two.txt"}, f"{corpus}/b/deep/two.txt", 1),
        Row({"text": "three", "file": "c.TXT"}, f"{corpus}/c.TXT", 1),
        Row({"text": "four", "file": "d.txt.gz"}, f"{corpus}/d.txt.gz", 1),
    ]
    assert read_rows(f"{corpus}/") == read_rows(corpus)


def test_the_hash_is_that_of_what_sha256sum_prints(corpus: Path) -> None:
    names = ["a.txt", "b/deep/two.txt", "c.TXT", "d.txt.gz", "empty.txt"]
    printed = subprocess.run(["sha256sum", *names], cwd=corpus, capture_output=True, check=True).stdout
    assert sha256_files(find_files(corpus)) == hashlib.sha256(printed).hexdigest()


@pytest.mark.parametrize("change", ["content", "name", "new", "gone"])
def test_the_hash_covers_every_file_and_its_name(corpus: Path, change: str) -> None:
    before = sha256_files(find_files(corpus))
    (corpus / "notes.md").write_text("no text of the corpus")
    assert sha256_files(find_files(corpus)) == before
    text = corpus / "b" / "deep" / "two.txt"
    if change == "content":
        text.write_text("other")
    elif change == "name":
        text.rename(text.with_name("too.txt"))
    elif change == "new":
        (corpus / "z.txt").write_text("")
    else:
        text.unlink()
    assert sha256_files(find_files(corpus)) != before


def test_links_inside_lead_nowhere_new(corpus: Path) -> None:
    rows = read_rows(corpus)
    (corpus / "loop").symlink_to("b")
    (corpus / "b" / "up").symlink_to(corpus)
    (corpus / "notes").symlink_to("/etc")
    (corpus / "notes").unlink()
    assert read_rows(corpus) == rows
    (corpus / "e.txt").symlink_to("a.txt")
    assert [row.fields["file"] for row in read_rows(corpus)][-1] == "e.txt"


@pytest.mark.parametrize("link", ["text", "folder", "deep"])
def test_links_out_of_the_folder_are_refused(corpus: Path, tmp_path: Path, link: str) -> None:
    (tmp_path / "corpus2").mkdir()
    (tmp_path / "corpus2" / "secret.txt").write_text("secret")
    target = tmp_path / "corpus2" / ("secret.txt" if link == "text" else "")
    place = corpus / ("b/deep" if link == "deep" else "") / ("s.txt" if link == "text" else "s")
    place.symlink_to(target)
    with pytest.raises(DataError, match=r"s(\.txt)? is a link that leads out of the folder"):
        read_rows(corpus)


def test_the_folder_itself_may_be_a_link(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(corpus)
    assert [row.fields for row in read_rows(tmp_path / "link")] == [row.fields for row in read_rows(corpus)]


def test_unkind_folders(corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, content, message in (
        ("latin.txt", b"\xe4", r"latin\.txt line 1: byte 0xe4"),
        ("binary.txt", b"a\0", r"binary\.txt line 1: a NUL byte"),
        ("wide.txt", "a".encode("utf-16"), r"wide\.txt is UTF-16 text"),
        ("cut.txt.gz", gzip.compress(b"abc")[:-3], r"cut\.txt\.gz is cut off"),
    ):
        (corpus / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_rows(corpus)
        (corpus / name).unlink()
    (corpus / "self.txt").symlink_to("self.txt")
    with pytest.raises(DataError, match=r"self\.txt cannot be read"):
        read_rows(corpus)
    (corpus / "self.txt").unlink()
    (corpus / "gone.txt").symlink_to("nowhere.txt")
    with pytest.raises(DataError, match=r"gone\.txt does not exist"):
        read_rows(corpus)
    (corpus / "gone.txt").unlink()
    os.mkfifo(corpus / "pipe.txt")
    with pytest.raises(DataError, match=r"pipe\.txt is not a regular file"):
        read_rows(corpus)
    monkeypatch.setattr(files_module, "MAX_ENTRIES", 3)
    with pytest.raises(DataError, match="holds more than 3 files"):
        read_rows(corpus)


def test_a_folder_without_texts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder without \.txt files") as caught:
        read_rows(tmp_path)
    assert caught.value.hint == "name a data file"
    (tmp_path / "e.txt").write_text("\n")
    with pytest.raises(DataError, match="has no rows"):
        read_rows(tmp_path)


def test_a_folder_that_may_not_be_read(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="corpus cannot be read: Permission denied"):
        read_rows(corpus)
