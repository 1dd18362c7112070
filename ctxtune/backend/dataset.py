"""Data sets of a hub that lie in the user's own folder, one folder a split, all splits of a data set at one commit.

    OWNER--NAME/CONFIG/SPLIT/     the split's files, and a note: where they are from, their order and hashes

Only parquet, JSON, tables and plain text are asked for: a script that comes with a data set is never fetched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.backend import home, hub
from ctxtune.backend.catalogue import Entry, PinnedFile
from ctxtune.backend.folder import NOTE, read_json
from ctxtune.data.files import Files
from ctxtune.data.format import format_of
from ctxtune.data.hub import PREFIX, HubName, parse_name
from ctxtune.data.splits import configurations, converted, is_data
from ctxtune.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONVERTED = "refs/convert/parquet"
"""the branch where a hub keeps what it has made of a data set that is a script, or of other files"""
MOST_FILES = 10_000
NOTHING = "has no files of parquet, json, csv, tsv or txt"
FETCH = "fetch them elsewhere and name them themselves"


@dataclass(frozen=True)
class Offered:
    """One split that a hub offers: its files, pinned, under the names that they get here."""

    name: HubName
    config: str
    split: str
    commit: str
    entry: Entry

    @property
    def folder(self) -> Path:
        """Where it goes."""
        return folder_of(self.name) / self.config / self.split


def folder_of(name: HubName) -> Path:
    """The folder of a data set."""
    return home.datasets() / hub.folder_name(name.repository)


def offered(name: HubName, revision: str = "main") -> list[Offered]:
    """The split that `name` means on the hub, or all of its configuration where it names none.

    Raises:
        DataError: there is no such configuration or split, or it is of files that are not read.
        ModelError: the hub cannot be reached, or has no such data set.
    """
    repository = hub.DATA + name.repository
    listing = hub.listed(repository, revision, is_data)
    if listing.files:
        found = configurations(listing.card, listing.names)
    else:
        try:
            listing = hub.listed(repository, CONVERTED, is_data)
        except ModelError as error:
            raise DataError(f"{name} {NOTHING}, and the hub has made no parquet of them", FETCH) from error
        found = converted(listing.names)
    config = _chosen(name, found)
    splits = found[config]
    wanted = [name.split] if name.split else list(splits)
    if not wanted or wanted[0] not in splits:
        raise DataError(f"{name}: no split {name.split!r}", f"it has {', '.join(splits) or 'none'}")
    pinned = {file.name: file for file in listing.files}
    return [_offered(name, config, split, splits[split], pinned, listing) for split in wanted]


def _chosen(name: HubName, found: Mapping[str, Any]) -> str:
    if name.config in found:
        return str(name.config)
    if name.config is None and (len(found) == 1 or "default" in found):
        return "default" if "default" in found else next(iter(found))
    if not found:
        raise DataError(f"{name} {NOTHING}", FETCH)
    known = ", ".join(list(found)[:8])
    said = f"no configuration {name.config!r}" if name.config else f"has {len(found)} configurations"
    raise DataError(f"{name}: {said}", f"they are {known}; write {PREFIX}{name.repository}/CONFIGURATION")


def _offered(
    name: HubName,
    config: str,
    split: str,
    names: Sequence[str],
    pinned: Mapping[str, PinnedFile],
    listing: hub.Listing,
) -> Offered:
    said = f"{PREFIX}{name.repository}/{config}:{split}"
    if not 0 < len(names) <= MOST_FILES:
        raise DataError(f"{said} has {len(names):,} files", f"from 1 to {MOST_FILES:,} are read")
    strange = next((one for one in names if one not in pinned or not is_data(one)), None)
    if strange is not None or any(name.endswith(".arrow") for name in names):
        raise DataError(
            f"{said}: {strange or names[0]!r} is not parquet, json, csv, tsv or txt",
            f"the hub may have made parquet of it: --revision {CONVERTED}",
        )
    if len({format_of(Path(one)) for one in names}) > 1:
        raise DataError(f"{said} has files of several formats", FETCH)
    files = tuple(replace(pinned[one], name=_local(one)) for one in names)
    if len({file.name.lower() for file in files} | {NOTE}) <= len(files):
        raise DataError(f"{said} has two files of one name", FETCH)
    size = sum(file.num_bytes for file in files)
    return Offered(name, config, split, listing.commit, Entry(said, "", 0, listing.licence, files, size))


def _local(name: str) -> str:
    """A file's name in the folder of its split: no folder of the repository is made here."""
    if not name.isprintable() or len(name.encode()) > 200:
        raise DataError(f"a file has the name {name[:50]!r}...", "fetch it elsewhere and name it")
    return name.replace("/", "--")


def note_of(split: Offered) -> dict[str, Any]:
    """What is written beside the files."""
    return {
        "dataset": split.entry.name,
        "revision": split.commit,
        "licence": split.entry.licence,
        "files": {file.name: file.hash for file in split.entry.files},
        "from": list(split.entry.origins),
    }


def known_commit(name: HubName) -> str | None:
    """The commit of the splits that are here; None where there is none."""
    for note in sorted(folder_of(name).glob(f"*/*/{NOTE}")):
        return str(read_json(note).get("revision"))
    return None


def here(name: HubName) -> Path | None:
    """The folder of the split that a name means, train unless it is said; None where it was not pulled.

    Raises:
        DataError: several configurations are here, and none is named.
    """
    if not hub.is_hub_id(name.repository):
        return None
    found = sorted(note.parent for note in folder_of(name).glob(f"*/{name.split or 'train'}/{NOTE}"))
    if name.config is not None:
        found = [folder for folder in found if folder.parent.name == name.config]
    if len(found) > 1:
        known = ", ".join(folder.parent.name for folder in found[:5])
        raise DataError(
            f"{name} is here in the configurations {known}", f"write {PREFIX}{name.repository}/CONFIGURATION"
        )
    return found[0] if found else None


def pulled_files(text: str) -> Files | None:
    """The files of a split that was pulled; None where `text` is no name of a hub, or was not pulled.

    Raises:
        DataError: several configurations are here, and none is named; a file is missing.
    """
    if not text.startswith(PREFIX):
        return None
    name = parse_name(text)
    folder = here(name)
    if folder is None:
        return None
    again = f"remove {folder} and pull the data set again"
    try:
        note = read_json(folder / NOTE)
        paths = tuple(folder / Path(file).name for file in note["files"])
        revision = f"{name.repository}@{note['revision']}"
    except (ModelError, LookupError, TypeError) as error:
        raise DataError(f"{folder / NOTE} is broken", again) from error
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None or not paths:
        raise DataError(f"{missing or folder} is missing", again)
    return Files(folder, format_of(paths[0]), paths, revision)
