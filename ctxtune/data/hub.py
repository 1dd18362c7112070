"""Data sets of a hub, `hub:owner/name`, where the library `datasets` has put them: its cache is read, the network never.

The cache has a folder `owner___name/config/version/hash` for each, with `name-split.arrow`, or that in numbered parts.
The library itself is not needed. `hub:owner/name/config:split` says which; the split is train unless it is said.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ctxtune.errors import DataError

PREFIX = "hub:"
WORD = r"[A-Za-z0-9_][\w.-]*"
NAME = re.compile(rf"hub:({WORD})/({WORD})(?:/({WORD}))?(?::({WORD}))?", re.ASCII)


def cached_files(name: str) -> tuple[Path, ...]:
    """The arrow files of a data set's split, in their order.

    Raises:
        DataError: it is not in the cache, or there are several of it.
    """
    found = NAME.fullmatch(name)
    if found is None or ".." in name:
        raise DataError(f"{name} is no name of a data set", "write hub:owner/name or hub:owner/name/config:split")
    owner, title, config, split = found[1], found[2], found[3], found[4] or "train"
    short = _snake(title)
    folder = _newest(_config(_cache() / f"{owner}___{short}", name, config), name)
    files = sorted(folder.glob(f"{short}-{split}.arrow")) or sorted(folder.glob(f"{short}-{split}-*-of-*.arrow"))
    if not files:
        splits = {re.sub(r"(-\d+-of-\d+)?\.arrow$", "", path.name) for path in folder.glob(f"{short}-*.arrow")}
        known = ", ".join(sorted(one.removeprefix(f"{short}-") for one in splits))
        raise DataError(f"{name}: no split {split!r}", f"it has {known or 'none'}; write {PREFIX}{owner}/{title}:SPLIT")
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


def _config(root: Path, name: str, config: str | None) -> Path:
    there = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    if config is None and len(there) > 1:
        raise DataError(f"{name} has the configurations {', '.join(there[:5])}", f"write hub:owner/name/{there[0]}")
    if not there or (config is not None and config not in there):
        raise _missing(name)
    return root / (config or there[0])


def _newest(config: Path, name: str) -> Path:
    whole = [info.parent for info in config.glob("*/*/dataset_info.json")]
    if not whole:
        raise _missing(name)
    return max(whole, key=lambda folder: (folder.stat().st_mtime, folder.name))


def _missing(name: str) -> DataError:
    said = name.removeprefix(PREFIX).partition(":")[0]
    return DataError(
        f"{name} is not in the cache {_cache()}, and ctxtune fetches no data",
        f"fetch it once: python -c \"from datasets import load_dataset; load_dataset('{said}')\"",
    )
