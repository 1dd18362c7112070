"""Whole texts that a run reads beside its rows: what forgetting is measured on, and what holds it back."""

from __future__ import annotations

from pathlib import Path

from ctxtune.errors import DataError
from ctxtune.recipe.gallery import template_folder


def probe_text(probe: str) -> str | None:
    """The text that forgetting is measured on; None where it is not measured."""
    if probe == "none":
        return None
    return read_text(_bundled("probe.txt") if probe == "builtin" else Path(probe), "forget.probe")


def guard_text(text: str) -> str:
    """The text that a forgetting budget is trained on."""
    return read_text(_bundled("guard.txt") if text == "builtin" else Path(text), "forget.text")


def _bundled(name: str) -> Path:
    return template_folder() / "data" / name


def read_text(path: Path | str, key: str) -> str:
    """A whole text file.

    Raises:
        DataError: it cannot be read, is not UTF-8, or holds no word.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{key}: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{key}: {path} is not UTF-8: byte {error.start}") from error
    if not text.split():
        raise DataError(f"{key}: {path} is empty")
    return text
