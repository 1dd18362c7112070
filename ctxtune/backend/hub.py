"""A hub over plain HTTPS: what files a model or a data set has, pinned to a commit, and the bytes of one of them.

Only `ctxtune model pull` and `ctxtune data pull` come here. Only files of an allow-list are asked for: safetensors, JSON and
plain text of a model, what data.py takes of a data set, so that neither code nor a pickle ever arrives. `HF_ENDPOINT` names
another hub, `HF_TOKEN` is shown to that host and to no other.

A repository is named as in the hub's addresses: `owner/name` is a model, `datasets/owner/name` a data set.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.backend.catalogue import Entry, Part, PinnedFile
from ctxtune.data.hub import shared_folder
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

SECONDS = 10.0
"""without an answer, or without a next byte"""
MOST_JSON = 16 << 20
ALLOWED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|merges\.txt|vocab\.txt|chat_template\.jinja|model\.safetensors(\.index\.json)?"
    r"|model-\d{5}-of-\d{5}\.safetensors"
)
COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{64}|git:[0-9a-f]{40}")
DATA = "datasets/"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form owner/name."""
    return REPOSITORY.fullmatch(text) is not None and ".." not in text and "--" not in text


def folder_name(repository: str) -> str:
    """The name of the folder in which a pulled model lies."""
    return repository.replace("/", "--")


def cached(repository: str) -> Path | None:
    """The newest snapshot of a model in the cache that all programs share which use the hub's own library."""
    folder = shared_folder("HF_HUB_CACHE", "hub") / f"models--{folder_name(repository)}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if COMMIT.fullmatch(commit) and snapshot.is_dir() else None


@dataclass(frozen=True)
class Listing:
    """What a hub has under a name now: its commit, its card, the names of all files, and those that may be asked for."""

    commit: str
    card: Mapping[str, Any]
    names: tuple[str, ...]
    files: tuple[PinnedFile, ...]

    @property
    def licence(self) -> str:
        """What the card says of the licence."""
        said = re.sub(r"[^ -~]", "?", str(self.card.get("license") or "not known"))
        return said[:80]


def find(repository: str, revision: str = "main") -> Entry:
    """The model that the hub has under that name, pinned to the commit that it has now.

    Raises:
        ModelError: the hub cannot be reached, has no such model, or has no safetensors of it.
    """
    listing = listed(repository, revision, lambda name: ALLOWED.fullmatch(name) is not None)
    if not any(file.name.endswith(".safetensors") for file in listing.files):
        raise ModelError(
            f"{repository} has no safetensors on the hub",
            "other forms of weights can run code when they are read: name another model",
        )
    return Entry(
        name=repository,
        family="",
        parameters=0,
        licence=listing.licence,
        files=listing.files,
        stored_bytes=sum(file.num_bytes for file in listing.files),
    )


def listed(repository: str, revision: str, allowed: Callable[[str], bool]) -> Listing:
    """What the hub has under that name.

    Raises:
        ModelError: the hub cannot be reached, has no such thing, or its answer is not understood.
    """
    from urllib.parse import quote

    place = repository if repository.startswith(DATA) else f"models/{repository}"
    with _opened(f"/api/{place}/revision/{quote(revision, safe='')}?blobs=true", repository) as answer:
        text = answer.read(MOST_JSON + 1)
    try:
        told = json.loads(text)
        commit, card = str(told["sha"]), told.get("cardData")
        items = {_text(item["rfilename"]): item for item in told["siblings"]}
        files = tuple(_file(item, f"hub:{repository}@{commit}") for name, item in items.items() if allowed(name))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelError(f"the hub's answer about {repository} is not understood") from error
    if not COMMIT.fullmatch(commit):
        raise ModelError(f"the hub names no revision of {repository}")
    return Listing(commit, card if isinstance(card, dict) else {}, tuple(items), files)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a name that is no text")
    return value


def _file(item: Any, origin: str) -> PinnedFile:
    large = item.get("lfs") or {}
    name, size = item["rfilename"], large.get("size", item.get("size"))
    known = str(large["sha256"]) if large else f"git:{item['blobId']}"
    if type(size) is not int or size < 0 or not HASH.fullmatch(known):
        raise ValueError("a file without a size or a hash")
    return PinnedFile(name, known, size, (Part(origin, (name,)),))


@contextmanager
def opened(repository: str, revision: str, name: str) -> Iterator[BinaryIO]:
    """The bytes of one file as they come."""
    from urllib.parse import quote

    with _opened(f"/{repository}/resolve/{revision}/{quote(name)}", repository) as answer:
        yield answer


@contextmanager
def _opened(path: str, repository: str) -> Iterator[Any]:
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    if not endpoint.startswith(("https://", "http://")):
        raise ModelError(f"HF_ENDPOINT is {endpoint!r}, which is no web address")
    request = urllib.request.Request(endpoint + path, headers={"User-Agent": "ctxtune"})
    token = os.environ.get("HF_TOKEN", "")
    if token and token.isascii() and token.isprintable():
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    elsewhere = "check the network, or fetch the files elsewhere and " + (
        "name them themselves" if repository.startswith(DATA) else "pass their folder with --from"
    )
    try:
        with urllib.request.build_opener().open(request, timeout=SECONDS) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error.code, repository) from error
    except (urllib.error.URLError, HTTPException, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a file of ours, not the hub
        reason = getattr(error, "reason", None) or error
        raise ModelError(f"the hub cannot be reached for {repository}: {reason}", elsewhere) from error


def _refused(code: int, repository: str) -> ModelError:
    if code in (401, 403):
        return ModelError(
            f"the hub does not give {repository} to everybody, or does not have it",
            "agree to its terms on the hub's page and set HF_TOKEN, or check the name",
        )
    if code == 404:
        return ModelError(f"the hub has no {_words(repository)}, or not this file of it", "check the name")
    return ModelError(f"the hub answers {code} when asked for {repository}", "try again later")


def _words(repository: str) -> str:
    return f"data set {repository.removeprefix(DATA)}" if repository.startswith(DATA) else f"model {repository}"
