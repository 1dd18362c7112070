"""The one store for what a frozen part of a model has said: hidden states today, later keys, values and logits.

A store is one tensor (tokens, width) in a safetensors file of the user's cache folder, or in memory. It is built in one pass,
keyed by everything that determines its numbers, and carries the SHA-256 of its bytes, so that a resumed run can tell
that it sees the same bits. A reader maps the file; the operating system keeps in memory what is in use.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctxtune.backend.device import available_memory
from ctxtune.backend.stores import LIMIT, folder, free_bytes, make_room
from ctxtune.errors import CtxtuneError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from ctxtune.data.pack import Place

_NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class States:
    """Hidden states (tokens, D) of many examples one after another; example i owns rows offsets[i] to offsets[i + 1]."""

    data: Tensor
    offsets: Sequence[int]
    digest: str
    place: str  # "memory", "disk" (built now) or "kept" (built by an earlier run)

    def batch(self, indices: Sequence[int], places: Sequence[Place], device: str) -> Tensor:
        """(B, T, D): each example at its place, zeros where none is."""
        spans = [(self.offsets[i], self.offsets[i + 1]) for i in indices]
        num_rows = max(row for row, _ in places) + 1
        width = max(first + end - begin for (_, first), (begin, end) in zip(places, spans, strict=True))
        out = torch.zeros(num_rows, width, self.data.shape[1], dtype=self.data.dtype)
        for (row, first), (begin, end) in zip(places, spans, strict=True):
            out[row, first : first + end - begin] = self.data[begin:end]
        return out.to(device)


def store_key(**facts: object) -> str:
    """A name for a store: the hash of all that determines its numbers."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def keep_states(
    key: str, lengths: Sequence[int], width: int, where: str, fill: Callable[[Tensor, Sequence[int]], None]
) -> States | None:
    """The store named `key`: read if an earlier run left it, else made by fill(data (tokens, width), offsets).

    where is `auto`, `memory`, `disk` or `off`. `auto` prefers the disk, so that the next run finds the store, then memory,
    then nothing at all: None.

    Raises:
        StorageError: `disk` was asked for and the disk has no room.
        CtxtuneError: `memory` was asked for and there is not enough.
    """
    offsets = [0, *np.cumsum(np.asarray(lengths, dtype=np.int64)).tolist()]
    shape = (offsets[-1], width)
    num_bytes = shape[0] * width * 4
    if where in ("auto", "disk"):
        path = folder() / f"{key}.safetensors"
        kept = _read(path, shape)
        if kept is not None:
            os.utime(path)
            return States(kept[0], offsets, kept[1], "kept")
        if where == "disk" or num_bytes < min(LIMIT, free_bytes(path.parent) // 2):
            make_room(num_bytes)
            try:
                data, digest = _build_file(path, shape, lambda data: fill(data, offsets))
                return States(data, offsets, digest, "disk")
            except StorageError:
                # A quota, or a disk that filled meanwhile: `auto` still has the memory.
                if where == "disk":
                    raise
    if where == "memory" or (where == "auto" and num_bytes < available_memory() // 2):
        if num_bytes > available_memory():
            raise CtxtuneError(f"the cache needs {num_bytes / 1e9:.1f} GB of memory", "use --cache disk or --cache off")
        data = torch.zeros(shape, dtype=torch.float32)
        fill(data, offsets)
        return States(data, offsets, _digest(data.numpy()), "memory")
    return None


def _header(shape: tuple[int, int], digest: str) -> bytes:
    span = [0, shape[0] * shape[1] * 4]
    table = {
        "__metadata__": {"format": "pt", "digest": digest},
        "states": {"dtype": "F32", "shape": list(shape), "data_offsets": span},
    }
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _build_file(path: Path, shape: tuple[int, int], fill: Callable[[Tensor], None]) -> tuple[Tensor, str]:
    """Write the file under a temporary name, fill it through a map, and move it into place when it is whole."""
    part = path.with_name(f"{path.stem}.{os.getpid()}.tmp")
    header = _header(shape, _NO_DIGEST)
    try:
        with open(part, "wb") as file:
            os.chmod(part, 0o600)
            file.write(header)
            # A hole in the file would only meet the full disk inside the map, where it kills the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), len(header), max(shape[0] * shape[1] * 4, 1))
            file.truncate(len(header) + shape[0] * shape[1] * 4)
        data = np.memmap(part, dtype=np.float32, mode="r+", offset=len(header), shape=shape)
        fill(torch.from_numpy(data))
        data.flush()
        digest = _digest(data)
        with open(part, "r+b") as file:
            file.write(_header(shape, digest))
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: {error.strerror}", "free some room, or use --cache memory or --cache off"
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return torch.from_numpy(data), digest


def _read(path: Path, shape: tuple[int, int]) -> tuple[Tensor, str] | None:
    """A store that is whole and unchanged, else None: it is built again then."""
    expected = _header(shape, _NO_DIGEST)
    try:
        with open(path, "rb") as file:
            header = file.read(len(expected))
        if path.stat().st_size != len(expected) + shape[0] * shape[1] * 4:
            return None
        digest = str(json.loads(header[8:])["__metadata__"]["digest"])
        if _header(shape, digest) != header:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Copy-on-write: torch wants a writable array, the file must not change.
    data = np.memmap(path, dtype=np.float32, mode="c", offset=len(header), shape=shape)
    return (torch.from_numpy(data), digest) if _digest(data) == digest else None


def _digest(data: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).data.cast("B")).hexdigest()
