"""The keys and values that an adapter holds, ready to be gone on from by the model they were made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from ctxtune.adapter.prefix import CONTAINER, ROWS, layout_of, shown
from ctxtune.backend.prefix import embedding_of, kept_prefix, vectors_prefix
from ctxtune.backend.spoken import Spoken
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor, nn

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
        raise _another(adapter, rows, error) from error


def held_suffix(model: nn.Module, adapter: AdapterFile) -> Spoken:
    """The vectors behind the input that an adapter holds, as tokens that a model can be told.

    Raises:
        AdapterError: it contradicts itself, or was made for another model.
    """
    layout_of(adapter)
    rows, weight = held_rows(adapter), embedding_of(model).weight
    if rows.shape[1] != weight.shape[1]:
        raise _another(adapter, rows, f"{weight.shape[1]:,}")
    vectors = rows.to(weight.device)
    return Spoken(model, lambda: vectors)


def _another(adapter: AdapterFile, rows: Tensor, kept: object) -> AdapterError:
    return AdapterError(
        f"{adapter.path}: tensor {ROWS!r} has {rows.shape[1]:,} numbers a token, the model keeps {kept}",
        "the adapter was made for another base",
    )


def held_rows(adapter: AdapterFile) -> Tensor:
    """The one tensor of a prefix, a row a token."""
    file: Any = safe_open(str(adapter.path), framework="pt", device="cpu")
    # The reader may hand out the file's own pages: a file that is changed later must not change what was read.
    rows: Tensor = file.get_tensor(ROWS).clone()
    return rows
