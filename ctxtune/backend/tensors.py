"""safetensors files, read strictly and written in one pass, without torch.

The format: 8 bytes little-endian length N, N bytes of JSON {name: {dtype, shape, data_offsets}, "__metadata__": {...}},
then the tensors' bytes without gaps. Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import stat
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.backend.atomic import storing, temporary_name
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
MAX_HEADER = 100_000_000
"""the format's own limit"""
MAX_DIMS = 64


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header tells it; `begin` and `end` count from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A checked header: the tensors fill the file from `data_start` to its end, each byte exactly once."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int
    file_size: int


def read_header(path: Path, error: type[ModelError] = ModelError) -> Header:
    """Read and check the header of `path`; any lie is an `error` that names the file and the tensor."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever, a device would never end
            raise error(f"{path} is not a file", "name a .safetensors file, or the folder that holds it")
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 2 <= length <= min(MAX_HEADER, status.st_size - 8):
                raise error(f"{path} is not a safetensors file, or it was cut short: its header cannot have its length")
            raw = file.read(length)
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        raise error(f"{path} cannot be read: {getattr(problem, 'strerror', None) or problem}") from problem
    if len(raw) != length:
        raise error(f"{path} was cut short: its header ends too early")
    return _checked(path, raw, status.st_size, error)


def _checked(path: Path, raw: bytes, file_size: int, error: type[ModelError]) -> Header:
    fields = _parsed(path, raw, error)
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise error(f"{path}: the metadata of the header must be texts")
    data_start = 8 + len(raw)
    tensors = {name: _tensor(path, name, field, data_start, error) for name, field in fields.items()}
    position, last = data_start, "the header"
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != position:
            raise error(f"{path}: tensor {name!r} does not begin where {last} ends")
        position, last = info.end, repr(name)
    if position != file_size:
        raise error(
            f"{path}: the header promises {position:,} bytes and the file has {file_size:,}",
            "the file was cut short or changed on its way: fetch it again",
        )
    return Header(tensors, metadata, data_start, file_size)


def _parsed(path: Path, raw: bytes, error: type[ModelError]) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ValueError("a name stands twice")
        return fields

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    try:
        fields = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: the header is not valid JSON: {problem}") from problem
    if not isinstance(fields, dict):
        raise error(f"{path}: the header is not a JSON object")
    return fields


def _tensor(path: Path, name: str, field: Any, data_start: int, error: type[ModelError]) -> TensorInfo:
    where = f"{path}: tensor {name!r}"
    if not isinstance(field, dict) or set(field) != {"dtype", "shape", "data_offsets"}:
        raise error(f"{where} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise error(f"{where} has the unknown dtype {str(dtype)[:40]!r}")
    if not _counts(shape) or len(shape) > MAX_DIMS:
        raise error(f"{where} has an impossible shape")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise error(f"{where} has impossible data_offsets")
    if math.prod(shape) * ITEM_BYTES[dtype] != offsets[1] - offsets[0]:
        raise error(f"{where} of shape {shape} and dtype {dtype} does not fill its {offsets[1] - offsets[0]:,} bytes")
    return TensorInfo(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """The whole file as read-only memory; pages are read when they are touched."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        view = memoryview(memory)
        try:
            yield view
        finally:
            view.release()


def write_tensors(
    path: Path,
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str],
    data: Callable[[str], bytes | memoryview],
    hash_key: str | None = None,
) -> int:
    """Write a safetensors file atomically, one tensor in memory at a time; return its size in bytes.

    `layout` is name -> (dtype, shape); `data(name)` gives the tensor's bytes. Wide types stand first, so that every
    tensor is aligned. Under `hash_key` the metadata gets the sha256 of all that follows the header.
    """
    order = sorted(layout, key=lambda name: (-ITEM_BYTES[layout[name][0]], name))
    digest = hashlib.sha256()

    def header() -> tuple[bytes, int]:
        return _header_bytes(layout, order, {**metadata, **({hash_key: digest.hexdigest()} if hash_key else {})})

    raw, total = header()  # of the length that it will have: the hash is known when all is written
    tmp = temporary_name(path)
    with storing(path, total):
        try:
            with tmp.open("xb") as file:
                file.write(raw)
                for name in order:
                    part = data(name)
                    file.write(part)
                    if hash_key:
                        digest.update(part)
                if file.tell() != total:
                    raise AssertionError(f"{path}: wrote {file.tell()} of {total} bytes")
                if hash_key:
                    file.seek(0)
                    file.write(header()[0])
                file.flush()
                os.fsync(file.fileno())
            tmp.replace(path)
        except BaseException:
            tmp.unlink(missing_ok=True)
            raise
    return total


def _header_bytes(
    layout: Mapping[str, tuple[str, tuple[int, ...]]], order: list[str], metadata: Mapping[str, str]
) -> tuple[bytes, int]:
    fields: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name in order:
        dtype, shape = layout[name]
        end = position + math.prod(shape) * ITEM_BYTES[dtype]
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + position
