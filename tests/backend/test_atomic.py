"""Files and folders are whole or not there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ctxtune.backend.atomic import check_writable, new_folder, replace_folder, write_bytes, write_text
from ctxtune.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_and_replace(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"\0\1")
    write_text(tmp_path / "a", "ü\r\n")
    assert (tmp_path / "a").read_bytes() == "ü\r\n".encode()
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"no room on the disk for .*/a \(1,000 bytes\)"),
        (errno.EDQUOT, "no room on the disk"),
        (errno.EACCES, "may not be written: Permission denied"),
        (errno.EROFS, "may not be written"),
        (errno.EIO, r"cannot be written \(1,000 bytes\): Input/output error"),
    ],
)
def test_a_failure_leaves_the_old_file(
    code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "a", "old")

    def fail(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=message):
        write_bytes(tmp_path / "a", bytes(1000))
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_where_nobody_can_write() -> None:
    from pathlib import Path

    with pytest.raises(StorageError):
        write_bytes(Path("/proc/ctxtune"), b"x")


def test_missing_parent_and_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        write_bytes(tmp_path / "no" / "a", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="directory"):
        write_bytes(tmp_path / "folder", b"x")
    assert names(tmp_path) == ["folder"]


def test_interrupts_pass_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a", b"x")
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "b") as tmp:
        (tmp / "file").write_text("x")
    assert names(tmp_path) == []


def test_new_folder(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "final"
    with new_folder(final) as tmp:
        (tmp / "file").write_text("1")
        assert not final.exists()
    with new_folder(final) as tmp:
        (tmp / "other").write_text("2")
    assert names(final) == ["other"]
    with pytest.raises(RuntimeError, match="inside"), new_folder(final):
        raise RuntimeError("inside")
    assert names(final) == ["other"]
    assert names(final.parent) == ["final"]


def test_replace_puts_the_old_folder_back(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "old").write_text("1")
    with pytest.raises(StorageError):
        replace_folder(tmp_path / "missing", tmp_path / "final")
    assert names(tmp_path / "final") == ["old"]


def test_sweep_spares_the_living_and_other_names(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [f".a[b].{dead.pid}-00.tmp", f".a[b].{os.getpid()}-00.tmp", f".ab.{dead.pid}-00.tmp", ".a[b].x-y.tmp"]
    for name in left:
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "a[b]"):
        pass
    assert names(tmp_path) == sorted(["a[b]", *left[1:]])


def test_a_file_written_again_sweeps_what_a_killed_process_left(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [f".a.jsonl.{dead.pid}-00.tmp", f".a.jsonl.{os.getpid()}-00.tmp", f".b.jsonl.{dead.pid}-00.tmp"]
    for name in left:
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "a.jsonl", "whole")
    assert names(tmp_path) == sorted(["a.jsonl", *left[1:]])


def test_a_place_is_tried_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new" / "deep" / "file")
    assert not names(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/below cannot be written"):
        check_writable(tmp_path / "file" / "below")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    with pytest.raises(StorageError, match="new may not be written: Permission denied"):
        check_writable(tmp_path / "new")
