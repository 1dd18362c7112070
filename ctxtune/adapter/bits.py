"""BITS, ctxtune's own container of a binary mask M of weights, W' = W M: one bit a weight.

    <parameter>.bits   uint8   8 weights a byte in row order, the first in its highest bit (numpy.packbits); 1: it stays

The header says how large each parameter is. Nothing here loads torch.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.adapter.mask import read_mask, read_sizes
from ctxtune.backend.mask import Part
from ctxtune.backend.tensors import mapped
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.mask import Mask
    from ctxtune.backend.tensors import Header

CONTAINER = "BITS"
SIZES = "ctxtune_bits"
"""the metadata key under which the size of each parameter stands as JSON"""
BITS = ".bits"


def is_bits(header: Header) -> bool:
    """Whether a file is of this container."""
    return SIZES in header.metadata


def sizes_text(sizes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """What the header says of so large parameters."""
    return {SIZES: json.dumps({name: list(size) for name, size in sizes.items()}, separators=(",", ":"))}


def encode(kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Bits as they are stored."""
    return np.packbits(kept.reshape(-1))


def read_bits(adapter: AdapterFile) -> dict[str, NDArray[np.bool_]]:
    """Name of a parameter -> which of its weights stay, in its shape.

    Raises:
        AdapterError: the file contradicts itself.
    """
    path, tensors = adapter.path, adapter.header.tensors
    sizes = read_sizes(path, adapter.header, SIZES)
    strange = next((name for name in tensors if name.removesuffix(BITS) not in sizes or not name.endswith(BITS)), None)
    if strange is not None:
        raise AdapterError(f"{path}: tensor {strange!r} holds bits of no parameter")
    found = {}
    with mapped(path) as view:
        for name, size in sizes.items():
            info, count = tensors.get(name + BITS), math.prod(size)
            if info is None or info.dtype != "U8" or info.shape != ((count + 7) // 8,):
                raise AdapterError(
                    f"{path}: {(count + 7) // 8:,} bytes of bits are needed for {name!r}, a U8 {name + BITS!r}"
                )
            packed = np.frombuffer(bytes(view[info.begin : info.end]), dtype=np.uint8)
            found[name] = np.unpackbits(packed, count=count).astype(bool).reshape(size)
    return found


def moved_of(adapter: AdapterFile) -> Mask:
    """The numbers that an adapter moves: those of its mask, or the weights that its bits make 0.

    Raises:
        AdapterError: the file contradicts itself.
    """
    if adapter.container != CONTAINER:
        return read_mask(adapter.path, adapter.header)
    return {name: Part("entries", kept.shape, np.flatnonzero(~kept)) for name, kept in read_bits(adapter).items()}
