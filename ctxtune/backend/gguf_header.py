"""The header of a .gguf file, read strictly: what it says of the model, and where each tensor lies. No torch, no numpy.

The format, version 2 or 3, little-endian: "GGUF", u32 version, u64 tensors, u64 keys; the keys (name, u32 type, value); the
tensors (name, u32 dimensions, u64 each, u32 type, u64 offset); then, aligned, the tensors' bytes. A string is a u64 length and
UTF-8, an array a u32 type, a u64 count and the items. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
A header is a stranger's: no count in it is believed before the file was seen to hold that much.
"""

from __future__ import annotations

import math
import mmap
import stat
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

MAX_KEYS = 65_536
MAX_TENSORS = 262_144
MAX_HEADER = 256 << 20
MAX_ITEMS = 2_000_000
"""items in all arrays together; the largest vocabularies have 1.3 million with their scores, types and merges"""
MAX_NAME = 65_535
MAX_TEXT = 16 << 20
MAX_DIMS = 4

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
TEXT, ARRAY = 8, 9

BLOCKS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""ggml's types: name, numbers in a block, bytes of a block"""


@dataclass(frozen=True)
class Items:
    """An array of the header, counted but not kept."""

    count: int


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor; the shape is in the order of torch, `begin` and `end` count from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class GGUFHeader:
    """A checked header: every tensor lies inside the file, and no two overlap."""

    keys: dict[str, Any]
    tensors: dict[str, GGUFTensor]
    file_size: int

    @property
    def architecture(self) -> str:
        return str(self.keys["general.architecture"])


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read and check the header of `path`.

    Raises:
        ModelError: it is no GGUF file, was cut short, or promises what it does not hold.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path} is not a file", "name a .gguf file")
        if status.st_size < 24:
            raise ModelError(f"{path} is not a GGUF file: it has only {status.st_size} bytes")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            return _read(_Reader(path, memory))
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        raise ModelError(f"{path} cannot be read: {getattr(problem, 'strerror', None) or problem}") from problem


def _read(reader: _Reader) -> GGUFHeader:
    if reader.memory[:4] != b"GGUF":
        raise ModelError(f"{reader.path} is not a GGUF file", "name a .gguf file, or a folder of safetensors files")
    reader.position = 4
    version = reader.scalar("<I")
    if version not in (2, 3):
        raise reader.error(f"version {version} of the format is not known (2 and 3 are)")
    tensors, keys = reader.scalar("<Q"), reader.scalar("<Q")
    if tensors > MAX_TENSORS or keys > MAX_KEYS:
        raise reader.error(f"the header promises {keys:,} keys and {tensors:,} tensors")
    found: dict[str, Any] = {}
    for _ in range(keys):
        name = reader.text(MAX_NAME)
        if name in found:
            raise reader.error(f"key {name!r} stands twice")
        found[name] = reader.value(reader.scalar("<I"), name)
    if not isinstance(found.get("general.architecture"), str):
        raise reader.error("it does not say its architecture")
    return GGUFHeader(found, _tensors(reader, tensors, _alignment(reader, found)), len(reader.memory))


def _alignment(reader: _Reader, keys: dict[str, Any]) -> int:
    alignment = keys.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise reader.error(f"general.alignment is {str(alignment)[:40]}, not a small power of two")
    return alignment


def _tensors(reader: _Reader, count: int, alignment: int) -> dict[str, GGUFTensor]:
    places: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name = reader.text(MAX_NAME)
        if name in places:
            raise reader.error(f"tensor {name!r} stands twice")
        places[name] = _place(reader, name, alignment)
    start = -(-reader.position // alignment) * alignment
    tensors = {
        name: GGUFTensor(dtype, shape, start + offset, start + offset + size)
        for name, (dtype, shape, offset, size) in places.items()
    }
    position = start
    for name, info in sorted(tensors.items(), key=lambda item: item[1].begin):
        if info.begin < position:
            raise reader.error(f"tensor {name!r} lies over another")
        position = info.end
    if position > len(reader.memory):
        raise ModelError(
            f"{reader.path}: the header promises {position:,} bytes and the file has {len(reader.memory):,}",
            "the file was cut short or changed on its way: fetch it again",
        )
    return tensors


def _place(reader: _Reader, name: str, alignment: int) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, offset and bytes of one tensor."""
    dims = reader.scalar("<I")
    if not 1 <= dims <= MAX_DIMS:
        raise reader.error(f"tensor {name!r} has {dims:,} dimensions")
    sizes = [reader.scalar("<Q") for _ in range(dims)]
    kind, offset = reader.scalar("<I"), reader.scalar("<Q")
    if kind not in BLOCKS:
        raise reader.error(f"tensor {name!r} has the unknown type {kind}")
    dtype, items, num_bytes = BLOCKS[kind]
    if not all(sizes) or sizes[0] % items:
        raise reader.error(f"tensor {name!r} of type {dtype} has the impossible shape {sizes}")
    if offset % alignment:
        raise reader.error(f"tensor {name!r} does not begin at a multiple of {alignment} bytes")
    return dtype, tuple(reversed(sizes)), offset, math.prod(sizes) // items * num_bytes


@dataclass
class _Reader:
    """A place in the file that moves on; reading past the end is an error that names the file."""

    path: Path
    memory: mmap.mmap
    position: int = 0
    items_left: int = field(default=MAX_ITEMS)

    def error(self, what: str) -> ModelError:
        return ModelError(f"{self.path} is not a sound GGUF file: {what}", "fetch it again, or convert it again")

    def skip(self, count: int) -> int:
        """Move `count` bytes on; returns where they began."""
        begin = self.position
        if count > len(self.memory) - begin:
            raise self.error(f"it ends inside its header, at byte {begin:,}")
        if begin > MAX_HEADER:
            raise self.error(f"its header is longer than {MAX_HEADER:,} bytes")
        self.position = begin + count
        return begin

    def scalar(self, code: str) -> Any:
        return struct.unpack_from(code, self.memory, self.skip(struct.calcsize(code)))[0]

    def text(self, longest: int) -> str:
        length = self.scalar("<Q")
        if length > longest:
            raise self.error(f"a text of {length:,} bytes stands in the header")
        begin = self.skip(length)
        try:
            return self.memory[begin : begin + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(f"a text of the header is not UTF-8, at byte {begin:,}") from None

    def value(self, kind: int, name: str) -> Any:
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind == TEXT:
            return self.text(MAX_TEXT)
        if kind != ARRAY:
            raise self.error(f"key {name!r} has the unknown type {kind}")
        inner, count = self.scalar("<I"), self.scalar("<Q")
        self.items_left -= count
        if self.items_left < 0:
            raise self.error(f"arrays of more than {MAX_ITEMS:,} items stand in the header")
        if inner in SCALARS:
            self.skip(count * struct.calcsize(SCALARS[inner]))
        elif inner == TEXT:
            self._skip_texts(count)
        else:
            raise self.error(f"key {name!r} is an array of the unknown type {inner}")
        return Items(count)

    def _skip_texts(self, count: int) -> None:
        """Past `count` texts: vocabularies are counted, not read."""
        memory, position, end = self.memory, self.position, len(self.memory)
        length_of = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if position + 8 > end:
                raise self.error("it ends inside an array of texts")
            position += 8 + length_of(memory, position)[0]
        self.position = position
        if position > end:
            raise self.error("it ends inside an array of texts")
