"""The file for what every row gave, which the user names: looked at before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.backend.atomic import check_writable, storing
from ctxtune.commands.prepare import parts_of
from ctxtune.errors import DataError, PlaceError, StorageError
from ctxtune.evals.items import read_items, write_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.evals.items import Item
    from ctxtune.recipe.schema import Recipe


def check_rows_file(option: str, path: Path, recipe: Recipe, against: str | None = None) -> None:
    """Refuse a place that cannot be written, and to write over what this run reads, or anything but an earlier result.

    Raises:
        PlaceError: it says which.
        StorageError: the disk is full.
    """
    with storing(path):
        if path.is_dir():
            raise PlaceError(f"{option} {path} is a folder", f"name a file: {option} items.jsonl")
        if path.parent.exists() and not path.parent.is_dir():
            raise PlaceError(f"{option} {path}: {path.parent} is no folder", "name another file")
        if not path.parent.exists():
            raise PlaceError(f"{option} {path}: there is no folder {path.parent}", f"mkdir {path.parent}")
        if path.exists():
            _check_old(option, path, recipe, against)
    check_writable(path)


def keep_rows(path: Path, items: Sequence[Item]) -> str | None:
    """Write what every row gave; returns why that failed, for what was scored is worth telling all the same."""
    try:
        write_items(path, items)
    except StorageError as error:
        return str(error)
    return None


def _check_old(option: str, path: Path, recipe: Recipe, against: str | None) -> None:
    sources = [one for one in (recipe.data.train, recipe.data.eval, against) if one is not None]
    read = [Path(part.path) for source in sources for part in parts_of(source)]
    if any(one.exists() and one.samefile(path) for one in read):
        raise PlaceError(f"{option} {path} is a file that this run reads", "name a new file")
    if not path.is_file():
        raise PlaceError(f"{option} {path} is no regular file", "name a new file")
    if not path.stat().st_size:
        return
    try:
        read_items(path)
    except DataError as error:
        raise PlaceError(
            f"{option} {path} holds something else than an earlier result, and is not written over", "name a new file"
        ) from error
