"""Which base is this: a hash of its configuration, its tokenizer and every tensor as it is stored.

    sha256( canonical config | canonical tokenizer | for each tensor by name: name, dtype, shape, bytes )

Sharding, file names, JSON layout and the version of the library that saved the folder do not enter. The result is kept
by path, size and time of every file that entered, so that it is computed once.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from ctxtune.backend.atomic import write_text
from ctxtune.backend.folder import read_json, weight_files
from ctxtune.backend.home import fingerprints
from ctxtune.backend.tensors import mapped, read_header
from ctxtune.errors import ModelError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

VOLATILE = {
    "_name_or_path", "_model_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache",
    "_commit_hash", "_attn_implementation_autoset", "output_attentions", "output_hidden_states", "return_dict",
}  # fmt: skip
"""configuration keys that say how a model was saved or is to be run, not what it computes"""
SESSION = {"truncation", "padding"}
"""tokenizer keys that the last program to use it left behind"""
CHUNK = 1 << 24


def fingerprint(folder: Path) -> str:
    """The fingerprint of the model in `folder`, from the store if no file has changed since."""
    known = cached_fingerprint(folder)
    if known:
        return known
    stamps = _stamps(folder)
    result = _compute(folder)
    note = json.dumps({"path": str(folder.resolve()), "files": stamps, "fingerprint": result})
    with suppress(StorageError):  # only a memory: without it the next run computes again
        write_text(_note(folder, fingerprints()), note)
    return result


def cached_fingerprint(folder: Path) -> str | None:
    """The fingerprint if it is known already; computes nothing."""
    path = _note(folder, fingerprints(make=False))
    if not path.is_file():
        return None
    try:
        note = read_json(path)
    except ModelError:
        return None  # a broken note is written again
    known = note.get("fingerprint")
    fits = note.get("path") == str(folder.resolve()) and note.get("files") == _stamps(folder)
    return known if fits and isinstance(known, str) else None


def _compute(folder: Path) -> str:
    digest = hashlib.sha256()
    config = read_json(folder / "config.json")
    # Newer libraries write new keys with the value null for models that do not have the thing.
    _add_json(digest, {key: value for key, value in config.items() if key not in VOLATILE and value is not None})
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file():
        _add_json(digest, {key: value for key, value in read_json(tokenizer).items() if key not in SESSION})
    with ExitStack() as stack:
        places = {}
        for path in weight_files(folder):
            header = read_header(path)
            view = stack.enter_context(mapped(path))
            for name, info in header.tensors.items():
                if name in places:
                    raise ModelError(f"{path}: tensor {name!r} stands in two files")
                places[name] = (info, view)
        for name, (info, view) in sorted(places.items()):
            _add_json(digest, [name, info.dtype, info.shape])
            for begin in range(info.begin, info.end, CHUNK):
                digest.update(view[begin : min(begin + CHUNK, info.end)])
    return f"sha256:{digest.hexdigest()}"


def _add_json(digest: hashlib._Hash, value: Any) -> None:
    digest.update(json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n")


def _stamps(folder: Path) -> list[list[str | int]]:
    paths = [folder / "config.json", folder / "tokenizer.json", *weight_files(folder)]
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths if path.is_file()]


def _note(folder: Path, place: Path) -> Path:
    key = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    return place / f"{key}.json"
