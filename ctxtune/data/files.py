"""What a name in a recipe stands for: one file, the texts below a folder, or the files of a data set.

Folders come from strangers too: links to other folders are not followed, and links that lead out are refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.data.format import format_of
from ctxtune.data.hub import PREFIX, cached_files
from ctxtune.data.open import inside, open_file
from ctxtune.data.saved import saved_files
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ENTRIES = 1_000_000  # files and folders below a folder: `--train /` ends soon


@dataclass(frozen=True)
class Files:
    """The files behind a name, in the order in which they are read, and the format of all of them.

    `revision` is `owner/name@commit` where they were pulled from a hub.
    """

    name: Path
    format: str
    paths: tuple[Path, ...]
    revision: str | None = None

    def short(self, path: Path) -> str:
        """A file's name as seen from the folder; its own name if it stands alone."""
        return path.relative_to(self.name).as_posix() if path != self.name else path.name


def find_files(name: Path | str, fmt: str | None = None) -> Files:
    """The files that are meant. `fmt` overrules the suffix of a single file.

    Raises:
        DataError: a name without a known suffix, or a folder without texts.
    """
    path = Path(name)
    try:
        if str(name).startswith(PREFIX):
            cached = cached_files(str(name))
            return Files(cached[0].parent, "arrow", cached)
        if fmt is None and path.is_dir():
            saved = saved_files(path)
            return Files(path, "arrow", saved) if saved else Files(path, "texts", tuple(_texts(path)))
        with open_file(path):  # what is not there, or is a device, is said before what its name lacks
            return Files(path, fmt or format_of(path), (path,))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _texts(folder: Path) -> list[Path]:
    found = sorted(_walk(folder), key=lambda path: path.relative_to(folder).as_posix())
    if not found:
        raise DataError(f"{folder} is a folder without .txt files", inside(folder))
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """The texts below a folder. A folder behind a link is left out: where it lies inside, it is read there."""
    root, count = os.path.realpath(folder), 0
    for place, folders, names in os.walk(folder, onerror=_refuse):
        count += len(folders) + len(names)
        if count > MAX_ENTRIES:
            raise DataError(f"{folder} holds more than {MAX_ENTRIES:,} files", "name a smaller folder")
        for name in [*folders, *names]:
            path = Path(place, name)
            if path.is_symlink():
                _check_link(path, root)
            if name in names and _is_text(path):
                yield path


def _is_text(path: Path) -> bool:
    try:
        return format_of(path) == "txt"
    except DataError:
        return False


def _check_link(path: Path, root: str) -> None:
    target = os.path.realpath(path)
    if not (path.is_dir() or _is_text(path)) or os.path.commonpath([target, root]) == root:
        return
    raise DataError(f"{path} is a link that leads out of the folder", "copy what it leads to, or remove it")


def _refuse(error: OSError) -> None:
    raise error
