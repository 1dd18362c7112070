"""MASK, ctxtune's own container of a mask, and of the changes D to the numbers that it chooses: W' = W + D.

    <parameter>.rows, .columns or .blocks   int32     their numbers
    <parameter>.entries                     uint8     how far each place lies from the one before; all bits set: and farther
                                            uint16    the same, where places are rare
    <parameter>.whole                       uint8     nothing: all of it is chosen
    <parameter>.delta                       bfloat16 or float32, in the order and the shape of Part.shape; not in a mask alone

An entry of one in a hundred takes 3.1 bytes, a number of a row or a column 2. The header says how large each parameter is.
Nothing here loads torch.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ctxtune.adapter.header import KEY, SHA256
from ctxtune.adapter.numbers import FLOATS, read_floats
from ctxtune.backend.mask import Kind, Part, units
from ctxtune.backend.tensors import mapped, write_tensors
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from ctxtune.adapter.manifest import Manifest
    from ctxtune.backend.mask import Mask
    from ctxtune.backend.tensors import Header, TensorInfo

CONTAINER = "MASK"
SIZES = "ctxtune_mask"
"""the metadata key under which the size of each parameter stands as JSON"""
DELTA = ".delta"
_KINDS = get_args(Kind)
_WIDTHS: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "U16": np.dtype("<u2")}
_NUMBERS: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4")}


def is_mask(header: Header) -> bool:
    """Whether a file is of this container."""
    return SIZES in header.metadata


def sizes_text(mask: Mask) -> dict[str, str]:
    """What the header says of a mask."""
    return {SIZES: json.dumps({name: list(part.size) for name, part in mask.items()}, separators=(",", ":"))}


def write_mask(path: Path, mask: Mask, manifest: Manifest) -> int:
    """Write a mask alone, whole or not at all; returns the size of the file."""
    stored = {f"{name}.{part.kind}": encode(part) for name, part in mask.items()}
    types = {width.str[1:]: name for name, width in (_WIDTHS | _NUMBERS).items()}
    layout = {name: (types[index.dtype.str[1:]], index.shape) for name, index in stored.items()}
    metadata = {"format": "pt", KEY: manifest.to_json(), **sizes_text(mask)}
    return write_tensors(path, layout, metadata, lambda name: stored[name].tobytes(), SHA256)


def encode(part: Part) -> NDArray[Any]:
    """The index of a part as it is stored."""
    if part.kind != "entries":
        return part.index.astype(np.int32 if part.kind != "whole" else np.uint8)
    gaps = np.diff(part.index, prepend=-1) - 1
    return min((_shortened(gaps, width) for width in _WIDTHS.values()), key=lambda found: int(found.nbytes))


def _shortened(gaps: NDArray[np.int64], width: np.dtype[Any]) -> NDArray[Any]:
    """Gaps in units of a width: as many full units as fit, then the rest."""
    full = np.iinfo(width).max
    count = gaps // full + 1
    units = np.full(int(count.sum()), full, dtype=width)
    units[np.cumsum(count) - 1] = gaps % full
    return units


def _places(units: NDArray[Any]) -> NDArray[np.int64]:
    ends = np.flatnonzero(units != np.iinfo(units.dtype).max)
    if len(units) and (not len(ends) or ends[-1] != len(units) - 1):
        raise ValueError("it ends within a distance")
    along: NDArray[np.int64] = np.cumsum(units.astype(np.int64))[ends] + np.arange(len(ends))
    return along


def read_mask(path: Path, header: Header) -> Mask:
    """The mask of a file, checked.

    Raises:
        AdapterError: it contradicts itself.
    """
    sizes = read_sizes(path, header)
    found: Mask = {}
    with mapped(path) as view:
        for name, size in sizes.items():
            tensor, kind = _index_of(path, name, header.tensors)
            try:
                found[name] = _part(kind, size, header.tensors[tensor], view)
            except ValueError as error:
                raise AdapterError(f"{path}: tensor {tensor!r}: {error}") from error
            delta = header.tensors.get(name + DELTA)
            if delta is not None and delta.shape != found[name].shape:
                told = f"{list(delta.shape)} numbers, its mask chooses {list(found[name].shape)}"
                raise AdapterError(f"{path}: tensor {name + DELTA!r} has {told}")
            if delta is not None and delta.dtype not in FLOATS:
                raise AdapterError(f"{path}: tensor {name + DELTA!r} is of type {delta.dtype}, changes are floats")
    _nothing_else(path, header.tensors, sizes)
    return found


def check_moved(path: Path, header: Header, mask: Mask) -> None:
    """Refuse a mask that does not say by how much its numbers move.

    Raises:
        AdapterError: it names one of them.
    """
    alone = next((name for name in mask if name + DELTA not in header.tensors), None)
    if alone is not None:
        raise AdapterError(
            f"{path} says which numbers of {alone!r} move, and not by how much", "it is a mask alone: name an adapter"
        )


def read_changes(path: Path, header: Header, mask: Mask) -> dict[str, NDArray[np.float64]]:
    """By how much each chosen number moves, in the order and the shape of its part.

    Raises:
        AdapterError: the file is a mask alone.
    """
    check_moved(path, header, mask)
    with mapped(path) as view:
        return {name: read_floats(view, header.tensors[name + DELTA]) for name in mask}


def read_sizes(path: Path, header: Header, key: str = SIZES) -> dict[str, tuple[int, ...]]:
    """The size of each parameter, as the header tells it under a key.

    Raises:
        AdapterError: it tells nothing that could be one.
    """
    try:
        told = json.loads(header.metadata.get(key, "null"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: the sizes in the header are not valid JSON: {error}") from error
    good = isinstance(told, dict) and all(_is_size(size) for size in told.values())
    if not good or not told:
        raise AdapterError(f"{path}: the header does not say how large each parameter is")
    return {name: tuple(size) for name, size in told.items()}


def _is_size(size: Any) -> bool:
    if not isinstance(size, list) or not 1 <= len(size) <= 4:
        return False
    return all(type(side) is int and side > 0 for side in size) and math.prod(size) < 2**48


def _index_of(path: Path, name: str, tensors: Mapping[str, TensorInfo]) -> tuple[str, Kind]:
    there = [(f"{name}.{kind}", kind) for kind in _KINDS if f"{name}.{kind}" in tensors]
    if len(there) != 1:
        raise AdapterError(f"{path}: {len(there)} tensors say what is chosen of {name!r}, one is needed")
    return there[0]


def _part(kind: Kind, size: tuple[int, ...], info: TensorInfo, view: memoryview) -> Part:
    widths = _WIDTHS if kind in ("entries", "whole") else _NUMBERS
    if info.dtype not in widths or len(info.shape) != 1:
        raise ValueError(f"a list of {' or '.join(widths)} is needed, this is {info.dtype} {list(info.shape)}")
    if len(size) != 2 and kind in ("columns", "blocks"):
        raise ValueError(f"a parameter of size {list(size)} has no {kind}")
    stored: NDArray[Any] = np.frombuffer(bytes(view[info.begin : info.end]), dtype=widths[info.dtype])
    index = _places(stored) if kind == "entries" else stored.astype(np.int64)
    if kind == "whole" and len(index):
        raise ValueError("all of it is chosen, nothing is left to say")
    if kind != "whole" and not len(index):
        raise ValueError("it chooses nothing")
    if len(index) and (index[0] < 0 or index[-1] >= units(kind, size) or (np.diff(index) <= 0).any()):
        raise ValueError(f"numbers from 0 to {units(kind, size) - 1}, each larger than the last, are needed")
    return Part(kind, size, index)


def _nothing_else(path: Path, tensors: Iterable[str], names: Iterable[str]) -> None:
    known = {f"{name}{end}" for name in names for end in (DELTA, *(f".{kind}" for kind in _KINDS))}
    strange = next((name for name in tensors if name not in known), None)
    if strange is not None:
        raise AdapterError(f"{path}: tensor {strange!r} belongs to no parameter of the mask")
