"""A model hub over plain HTTPS: what files a model has at a revision, and the bytes of one of them.

Only `ctxtune model pull` comes here. Only files of the allow-list are asked for: safetensors, JSON and plain text, so that
neither code nor a pickle ever arrives. `HF_ENDPOINT` names another hub, `HF_TOKEN` is shown to that host and to no other.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

SECONDS = 10.0
"""without an answer, or without a next byte"""
MOST_JSON = 16 << 20
ALLOWED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|merges\.txt|vocab\.txt|chat_template\.jinja|model\.safetensors(\.index\.json)?"
    r"|model-\d{5}-of-\d{5}\.safetensors"
)
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class HubFile:
    """One file: `sha256` for large ones, for the others git's hash of a blob."""

    name: str
    num_bytes: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class HubModel:
    """A model at one revision (a commit), as far as it is allowed here."""

    repository: str
    revision: str
    licence: str | None
    files: tuple[HubFile, ...]


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form owner/name."""
    return REPOSITORY.fullmatch(text) is not None and ".." not in text and "--" not in text


def find(repository: str, revision: str = "main") -> HubModel:
    """What the hub has under that name.

    Raises:
        ModelError: the hub cannot be reached, has no such model, or has no safetensors of it.
    """
    with _opened(f"/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true", repository) as answer:
        text = answer.read(MOST_JSON + 1)
    try:
        told = json.loads(text)
        found = tuple(_file(item) for item in told["siblings"] if ALLOWED.fullmatch(str(item["rfilename"])))
        commit = str(told["sha"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelError(f"the hub's answer about {repository} is not understood") from error
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise ModelError(f"the hub names no revision of {repository}")
    if not any(file.name.endswith(".safetensors") for file in found):
        raise ModelError(
            f"{repository} has no safetensors on the hub",
            "other forms of weights can run code when they are read: name another model",
        )
    card = told.get("cardData")
    licence = card.get("license") if isinstance(card, dict) else None
    return HubModel(repository, commit, str(licence)[:80] if licence else None, found)


def _file(item: Any) -> HubFile:
    large = item.get("lfs") or {}
    size = large.get("size", item.get("size"))
    if type(size) is not int or size < 0:
        raise ValueError("a file without a size")
    return HubFile(item["rfilename"], size, large.get("sha256"), None if large else item.get("blobId"))


@contextmanager
def opened(repository: str, revision: str, name: str) -> Iterator[BinaryIO]:
    """The bytes of one file as they come."""
    with _opened(f"/{repository}/resolve/{quote(revision, safe='')}/{quote(name)}", repository) as answer:
        yield answer


@contextmanager
def _opened(path: str, repository: str) -> Iterator[Any]:
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    request = urllib.request.Request(endpoint + path, headers={"User-Agent": "ctxtune"})
    token = os.environ.get("HF_TOKEN", "")
    if token and token.isascii() and token.isprintable():
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if urlsplit(endpoint).scheme not in ("https", "http"):
        raise ModelError(f"HF_ENDPOINT is {endpoint!r}, which is no web address")
    elsewhere = "check the network, or fetch the files elsewhere and pass their folder with --from"
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
        return ModelError(f"the hub has no model {repository}, or not this file of it", "check the name")
    return ModelError(f"the hub answers {code} when asked for {repository}", "try again later")
