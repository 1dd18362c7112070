"""Lines of a pipe: none is waited for, none is lost, none is kept."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from ctxtune.data import stream
from ctxtune.data.stream import line_batches

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_what_is_there_comes_at_once() -> None:
    read, write = os.pipe()
    batches = line_batches(read, 64)
    os.write(write, b'{"a": 1}\n{"a": 2}\n{"a"')
    assert next(batches) == [(1, b'{"a": 1}'), (2, b'{"a": 2}')]
    os.write(write, b": 3}\n")
    assert next(batches) == [(3, b'{"a": 3}')]
    os.write(write, b"the end")
    os.close(write)
    assert list(batches) == [[(4, b"the end")]]
    os.close(read)


def test_a_slow_writer_is_answered_line_by_line() -> None:
    read, write = os.pipe()

    def slowly() -> None:
        for number in range(3):
            os.write(write, b"%d\n" % number)
            time.sleep(0.1)
        os.close(write)

    thread = threading.Thread(target=slowly)
    thread.start()
    assert list(line_batches(read, 64)) == [[(1, b"0")], [(2, b"1")], [(3, b"2")]]
    thread.join()
    os.close(read)


def test_a_full_load_and_every_line_of_a_file(tmp_path: Path) -> None:
    path = f"{tmp_path}/lines"
    with open(path, "wb") as file:
        file.writelines(b"%d\n" % number for number in range(30_000))
    source = os.open(path, os.O_RDONLY)
    batches = list(line_batches(source, 64))
    os.close(source)
    assert [line for batch in batches for line in batch] == [(n + 1, b"%d" % n) for n in range(30_000)]
    assert max(map(len, batches)) == 64


def test_a_line_longer_than_any_row_is_told_and_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stream, "LONGEST", 100)
    monkeypatch.setattr(stream, "_READ", 30)
    path = f"{tmp_path}/lines"
    with open(path, "wb") as file:
        file.write(b"one\n" + b"x" * 1000 + b"\nthree\n\n" + b"y" * 101 + b"\nsix")
    source = os.open(path, os.O_RDONLY)
    found = [line for batch in line_batches(source, 2) for line in batch]
    os.close(source)
    assert found == [(1, b"one"), (2, None), (3, b"three"), (4, b""), (5, None), (6, b"six")]
