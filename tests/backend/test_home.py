"""The user's folder is where it was put, and nobody else's."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from ctxtune.backend import home
from ctxtune.backend.fingerprint import fingerprint
from ctxtune.backend.stores import list_stores
from ctxtune.commands.model import list_models, show
from ctxtune.errors import StorageError


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


def test_who_only_reads_needs_no_folder(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is mounted read-only; who writes is told what to set."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setenv("CTXTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert {row.folder for row in list_models()} == {None}
    assert show(str(model_folders["llama-tied"])).fingerprint is None
    assert list_stores() == []
    assert fingerprint(model_folders["llama-tied"]).startswith("sha256:")
    with pytest.raises(StorageError, match="home may not be written: Read-only file system") as caught:
        home.models()
    assert caught.value.hint == "set CTXTUNE_HOME to a folder that you may write to"
