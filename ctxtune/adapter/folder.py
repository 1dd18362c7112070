"""The files of an adapter folder, as PEFT names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxtune.errors import PlaceError

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"
PICKLE = "adapter_model.bin"


def require_new(folder: Path) -> None:
    """Refuse to write where anything lies, an older adapter too: nobody has said that it may go.

    Raises:
        PlaceError: `folder` holds files, or is a file.
    """
    require_free(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise PlaceError(f"{folder} holds an adapter already", "name a new folder, or remove that one")


def require_free(folder: Path) -> None:
    """Refuse to write where anything but an older adapter lies: writing replaces the folder.

    Raises:
        PlaceError: `folder` holds other files, or is a file.
    """
    try:
        if not folder.exists() and not folder.is_symlink():
            return
        if folder.is_symlink() or not folder.is_dir():
            raise PlaceError(f"{folder} is not a folder", "name a new folder")
        others = sorted(path.name for path in folder.iterdir() if path.name not in {TENSORS, CONFIG, CARD})
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PlaceError(f"{str(folder)[:200]!r} cannot be written: {reason}", "name another folder") from error
    if others:
        raise PlaceError(f"{folder} holds {others[0]!r}, which is no part of an adapter", "name a new folder")
