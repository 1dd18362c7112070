"""Data sets of a hub, `hub:owner/name`: their names, and where the library `datasets` has put them. The network is never asked.

Its cache has a folder `owner___name/config/version/hash` for each, with `name-split.arrow`, or that in numbered parts.
The library itself is not needed. `hub:owner/name/config:split` says which; the split is train unless it is said.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ctxtune.errors import DataError

PREFIX = "hub:"
WORD = r"[A-Za-z0-9_][\w.-]{0,95}"
NAME = re.compile(rf"hub:({WORD})/({WORD})(?:/({WORD}))?(?::({WORD}))?", re.ASCII)


@dataclass(frozen=True)
class HubName:
    """`hub:owner/title/config:split`; config and split are None where they are not said."""

    owner: str
    title: str
    config: str | None
    split: str | None

    @property
    def repository(self) -> str:
        """What the hub calls it."""
        return f"{self.owner}/{self.title}"

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        return f"{PREFIX}{self.repository}{config}" + (f":{self.split}" if self.split else "")


def parse_name(text: str) -> HubName:
    """The parts of a name.

    Raises:
        DataError: it is none.
    """
    found = NAME.fullmatch(text)
    if found is None or ".." in text:
        raise DataError(f"{text} is no name of a data set", "write hub:owner/name or hub:owner/name/config:split")
    return HubName(found[1], found[2], found[3], found[4])


def cached_files(text: str) -> tuple[Path, ...]:
    """The arrow files of a data set's split in the cache of the library `datasets`, in their order.

    Raises:
        DataError: it is not in the cache, or there are several of it.
    """
    name = parse_name(text)
    short, split = _snake(name.title), name.split or "train"
    folder = _newest(_config(_cache() / f"{name.owner}___{short}", name), name)
    files = sorted(folder.glob(f"{short}-{split}.arrow")) or sorted(folder.glob(f"{short}-{split}-*-of-*.arrow"))
    if not files:
        splits = {re.sub(r"(-\d+-of-\d+)?\.arrow$", "", path.name) for path in folder.glob(f"{short}-*.arrow")}
        known = ", ".join(sorted(one.removeprefix(f"{short}-") for one in splits))
        raise DataError(
            f"{name}: no split {split!r}", f"it has {known or 'none'}; write {PREFIX}{name.repository}:SPLIT"
        )
    return tuple(files)


def shared_folder(variable: str, name: str) -> Path:
    """A folder that all programs share which use the hub's libraries, by their own rules: named by a variable, or `name`."""
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(shared, "huggingface")
    return Path(os.environ.get(variable) or os.path.join(home, name)).expanduser()


def _cache() -> Path:
    """Where the library keeps data sets."""
    return shared_folder("HF_DATASETS_CACHE", "datasets")


def _snake(title: str) -> str:
    """A name as the library spells it in the cache: MyData is my_data."""
    spaced = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", title)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", spaced).lower()


def _config(root: Path, name: HubName) -> Path:
    there = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    if name.config is None and len(there) > 1:
        raise DataError(f"{name} has the configurations {', '.join(there[:5])}", f"write hub:owner/name/{there[0]}")
    if not there or (name.config is not None and name.config not in there):
        raise _missing(name)
    return root / (name.config or there[0])


def _newest(config: Path, name: HubName) -> Path:
    whole = [info.parent for info in config.glob("*/*/dataset_info.json")]
    if not whole:
        raise _missing(name)
    return max(whole, key=lambda folder: (folder.stat().st_mtime, folder.name))


def _missing(name: HubName) -> DataError:
    return DataError(
        f"{name} was not pulled and is not in the cache {_cache()}",
        f"ctxtune data pull {str(name).removeprefix(PREFIX)}",
    )
