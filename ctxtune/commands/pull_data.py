"""Fetch a data set of a hub once, into the user's folder: one split, or all of a configuration, pinned to a commit."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.backend import dataset, home, hub
from ctxtune.backend.atomic import new_folder, require_room, write_text
from ctxtune.backend.fetch import obtain
from ctxtune.backend.folder import NOTE, folder_bytes, read_json
from ctxtune.commands.pull import alone
from ctxtune.data.hub import PREFIX, parse_name
from ctxtune.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ctxtune.backend.dataset import Offered


@dataclass(frozen=True)
class PulledSplit:
    """One split, by the name that `--train` and `--eval` take; `fresh` is false if it was there already."""

    name: str
    folder: Path
    num_bytes: int
    fresh: bool


@dataclass(frozen=True)
class PulledData:
    """What `data pull` did."""

    repository: str
    revision: str
    licence: str
    splits: list[PulledSplit]
    seconds: float


def pull_data(text: str, revision: str | None = None, say: Callable[[str], None] = lambda text: None) -> PulledData:
    """Fetch what `text` names, `owner/name`, `owner/name/config` or `owner/name/config:split`, with or without `hub:`.

    All splits of a data set are kept at one commit: a later one is asked for at that of the first.

    Raises:
        DataError: the hub cannot be reached, has nothing of that name, gives other bytes, or another commit is here.
        StorageError: no room.
    """
    begun = time.monotonic()
    name = parse_name(text if text.startswith(PREFIX) else PREFIX + text)
    if not hub.is_hub_id(name.repository):
        raise DataError(f"{name.repository} is no name of a data set", "write owner/name or owner/name/config:split")
    known = dataset.here(name) if name.split and revision is None else None
    if known is not None:  # the hub is not asked again
        note = read_json(known / NOTE)
        one = PulledSplit(note["dataset"], known, folder_bytes(known), False)
        return PulledData(name.repository, note["revision"], note["licence"], [one], time.monotonic() - begun)
    with _as_data(), alone(home.datasets(), lambda: say("another ctxtune is pulling data: waiting for it")):
        here = dataset.known_commit(name)
        splits = dataset.offered(name, revision or here or "main")
        commit = splits[0].commit
        if here not in (None, commit):
            raise DataError(
                f"{name.repository} is here at commit {here}, and {commit} is asked for",
                f"all splits are kept at one: remove {dataset.folder_of(name)} to fetch another",
            )
        missing = [split for split in splits if not (split.folder / NOTE).is_file()]
        _fetch(missing, say)
    pulled = [
        PulledSplit(split.entry.name, split.folder, folder_bytes(split.folder), split in missing) for split in splits
    ]
    return PulledData(name.repository, commit, splits[0].entry.licence, pulled, time.monotonic() - begun)


def _fetch(splits: Sequence[Offered], say: Callable[[str], None]) -> None:
    """Every split whole or not at all; room for all of them is asked for before the first byte."""
    size = sum(split.entry.num_bytes for split in splits)
    for split in splits:
        say(f"{split.entry.name}: {len(split.entry.files)} files, {split.entry.num_bytes:,} bytes")
    if splits:
        require_room(home.datasets(), size, splits[0].name.repository)
    for split in splits:
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=home.datasets()) as scratch:
            paths = obtain(split.entry, (), Path(scratch), say)
            with new_folder(split.folder) as new:
                for path in paths:
                    path.rename(new / path.name)
                write_text(new / NOTE, json.dumps(dataset.note_of(split), indent=2) + "\n")


@contextmanager
def _as_data() -> Iterator[None]:
    """What goes wrong while data are fetched is said of data, whoever fetches."""
    try:
        yield
    except ModelError as error:
        raise DataError(str(error), error.hint) from error
