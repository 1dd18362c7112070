"""A data set as `datasets.Dataset.save_to_disk` leaves it: `state.json` names the arrow files beside it, in their order.

It is read without the library `datasets`. A folder that holds several splits holds one such folder for each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ctxtune.data.objects import read_json_object
from ctxtune.data.open import open_lines
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def saved_files(folder: Path) -> tuple[Path, ...]:
    """The arrow files of a saved data set; none if the folder is no such thing.

    Raises:
        DataError: it holds splits, of which one must be named, or `state.json` names no files beside it.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = _texts(folder / "dataset_dict.json", "splits")
        raise DataError(f"{folder} holds the splits {', '.join(splits)}", f"name one of them: {folder / splits[0]}")
    state = folder / "state.json"
    if not state.is_file() or not (folder / "dataset_info.json").is_file():
        return ()
    return tuple(_beside(state, name) for name in _texts(state, "_data_files"))


def _texts(path: Path, key: str) -> list[str]:
    """The texts listed under a key, as they stand or as the `filename` of objects."""
    with open_lines(path) as lines:
        listed = read_json_object("".join(lines), str(path)).get(key)
    found = (
        [item.get("filename") if isinstance(item, dict) else item for item in listed if item]
        if isinstance(listed, list)
        else []
    )
    texts = [text for text in found if isinstance(text, str) and text]
    if not texts or len(texts) < len(found):
        raise DataError(f"{path}: {key!r} lists no files", "save the data set anew")
    return texts


def _beside(state: Path, name: str) -> Path:
    path = state.parent / name
    if os.path.basename(name) != name or name in (".", "..") or os.path.islink(path):
        raise DataError(f"{state} names {name!r}, which is not a file of this folder", "save the data set anew")
    return path
