"""The user's folder is where it was put, and nobody else's."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from ctxtune.backend import home
from ctxtune.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path


def test_folders_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTXTUNE_HOME", str(tmp_path / "deep" / "home"))
    for folder in (home.home(), home.models(), home.states(), home.fingerprints()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.is_relative_to(tmp_path / "deep" / "home")


def test_the_systems_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTXTUNE_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.home().is_relative_to(tmp_path)
    assert home.home().name == "ctxtune"


def test_a_file_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("CTXTUNE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="is not a folder"):
        home.home()
    monkeypatch.setenv("CTXTUNE_HOME", str(tmp_path / "file" / "inside"))
    with pytest.raises(StorageError, match="cannot be written"):
        home.home()
