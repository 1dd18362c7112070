"""The keys and values that an adapter holds, ready to be gone on from by the model they were made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from ctxtune.adapter.prefix import CONTAINER, ROWS, layout_of, shown
from ctxtune.backend.prefix import kept_prefix, vectors_prefix
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.prefix import Prefix
    from ctxtune.backend.trunk import Trunk


def held_prefix(trunk: Trunk, adapter: AdapterFile) -> Prefix:
    """The prefix that an adapter holds, or that the model makes of the vectors that it holds.

    Raises:
        AdapterError: it contradicts itself, or was made for another model.
    """
    layout_of(adapter)
    told = shown(adapter)
    assert told is not None
    rows = held_rows(adapter)
    try:
        if adapter.container != CONTAINER:
            return vectors_prefix(trunk, told.tokens, rows)
        return kept_prefix(trunk, told.tokens, rows)
    except ValueError as error:
        raise AdapterError(
            f"{adapter.path}: tensor {ROWS!r} has {rows.shape[1]:,} numbers a token, the model keeps {error}",
            "the adapter was made for another base",
        ) from error


def held_rows(adapter: AdapterFile) -> Tensor:
    """The one tensor of a prefix, a row a token."""
    file: Any = safe_open(str(adapter.path), framework="pt", device="cpu")
    # The reader may hand out the file's own pages: a file that is changed later must not change what was read.
    rows: Tensor = file.get_tensor(ROWS).clone()
    return rows
