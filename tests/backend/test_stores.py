"""Stores on disk: what is listed, what is cleared, and what goes first."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from ctxtune.backend import stores
from ctxtune.backend.stores import clear_stores, folder, free_bytes, list_stores, make_room

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86400
DEAD = 1 << 30  # no process has this number


def put(name: str, num_bytes: int, days: float) -> Path:
    """A file of the folder, used that many days ago."""
    path = folder() / name
    path.write_bytes(b"x" * num_bytes)
    used = time.time() - days * DAY
    os.utime(path, (used, used))
    return path


def test_an_empty_folder() -> None:
    assert list_stores() == []
    assert clear_stores() == []
    make_room(1 << 60)


def test_the_last_used_comes_first() -> None:
    for name, num_bytes, days in (("b", 20, 2), ("a", 10, 3), ("c", 30, 1)):
        put(f"{name}.safetensors", num_bytes, days)
    put("building.123.tmp", 5, 0)
    assert [(store.key, store.num_bytes) for store in list_stores()] == [("c", 30), ("b", 20), ("a", 10)]


def test_clearing_takes_everything() -> None:
    put("a.safetensors", 10, 3)
    put("b.safetensors", 10, 0)
    put(f"stray.{DEAD}.tmp", 10, 1)
    assert {store.key for store in clear_stores()} == {"a", "b"}
    assert list(folder().iterdir()) == []


def test_clearing_by_age() -> None:
    put("old.safetensors", 10, 8)
    young = put("young.safetensors", 10, 6)
    put(f"old.{DEAD}.tmp", 10, 8)
    fresh = put(f"fresh.{DEAD}.tmp", 10, 1)
    at_work = put(f"old.{os.getpid()}.tmp", 10, 8)
    assert [store.key for store in clear_stores(7)] == ["old"]
    assert sorted(folder().iterdir()) == sorted([young, fresh, at_work])


def test_what_is_no_store_stays() -> None:
    mine = put("notes.txt", 10, 9)
    clear_stores()
    assert mine.exists()


@pytest.mark.parametrize(("num_bytes", "left"), [(40, "abc"), (41, "bc"), (50, "bc"), (51, "c"), (100, ""), (999, "")])
def test_the_oldest_make_room(num_bytes: int, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LIMIT", 100)
    for name, size, days in (("a", 10, 3), ("b", 1, 2), ("c", 49, 1)):
        put(f"{name}.safetensors", size, days)
    make_room(num_bytes)
    assert sorted(store.key for store in list_stores()) == list(left)


def test_a_store_that_vanishes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands clear at once: what the other has removed is no error."""
    put("a.safetensors", 10, 3)
    put("b.safetensors", 10, 3)
    listed = list_stores()
    (folder() / "a.safetensors").unlink()
    monkeypatch.setattr(stores, "list_stores", lambda: listed)
    clear_stores()
    assert list(folder().iterdir()) == []


def test_free_bytes(tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)
    assert free_bytes(tmp_path) == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.1)
    assert free_bytes(tmp_path) > 0


def test_a_corpus_is_a_store() -> None:
    from ctxtune.backend.home import corpora

    place = corpora() / "abc"
    place.mkdir()
    (corpora() / "abc.lock").touch()
    (place / "train.tokens").write_bytes(b"x" * 30)
    (place / "corpus.json").write_bytes(b"{}")
    (corpora() / ".abc.123-0.tmp").mkdir()  # one that is being made
    put("a.safetensors", 10, 3)
    assert [(store.key, store.what, store.num_bytes) for store in list_stores()] == [
        ("abc", "corpus", 32),
        ("a", "states", 10),
    ]
    assert {store.key for store in clear_stores()} == {"a", "abc"}
    assert [path.name for path in corpora().iterdir()] == [".abc.123-0.tmp"]
