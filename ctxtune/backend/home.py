"""The user's own folder: pulled models, cached states and fingerprints, readable by nobody else.

`CTXTUNE_HOME` if set, else the cache folder of the system. Who only reads asks for a folder without `make`: it need not be
there, and may lie where nothing can be written.
"""

from __future__ import annotations

import os
from pathlib import Path

from ctxtune.backend.atomic import storing
from ctxtune.errors import PlaceError, StorageError


def home(make: bool = True) -> Path:
    """The folder itself, made when it is first asked for."""
    named = os.environ.get("CTXTUNE_HOME", "")
    if named:
        return _private(Path(named).expanduser().absolute(), make)
    from platformdirs import user_cache_dir

    return _private(Path(user_cache_dir("ctxtune")), make)


def models(make: bool = True) -> Path:
    """One folder a pulled model."""
    return _private(home(make) / "models", make)


def datasets() -> Path:
    """One folder a pulled data set."""
    return _private(home() / "datasets")


def conversions() -> Path:
    """One folder a .gguf file that was used as a model, named by its sha256."""
    return _private(home() / "converted")


def corpora(make: bool = True) -> Path:
    """One folder a corpus that was tokenised."""
    return _private(home(make) / "corpora", make)


def states(make: bool = True) -> Path:
    """What a frozen part of a model has said about an input."""
    return _private(home(make) / "states", make)


def fingerprints(make: bool = True) -> Path:
    """One small JSON file a model folder whose fingerprint is known."""
    return _private(home(make) / "fingerprints", make)


def _private(folder: Path, make: bool = True) -> Path:
    """Make a folder of mode 0700: what lies here was computed from the user's texts."""
    if folder.exists() and not folder.is_dir():
        raise PlaceError(f"{folder} is not a folder", "move it away, or set CTXTUNE_HOME to a folder")
    if not make:
        return folder
    try:
        with storing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except StorageError as error:
        error.hint = "set CTXTUNE_HOME to a folder that you may write to"
        raise
    return folder
