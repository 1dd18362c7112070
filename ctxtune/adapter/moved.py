"""The changes that a mask adapter holds, ready to be laid on the model they were made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from ctxtune.adapter.mask import DELTA, check_moved, read_mask
from ctxtune.backend.delta import Delta
from ctxtune.backend.quantise import stored_shape
from ctxtune.backend.words import reads_half
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.mask import Mask, Part


def held_delta(model: nn.Module, adapter: AdapterFile, alpha: float = 1.0) -> Delta:
    """The changes, `alpha` of each, not laid on yet.

    Raises:
        AdapterError: they are for parameters that the model does not have, or has in another size or in 16 bits.
    """
    mask = read_mask(adapter.path, adapter.header)
    check_moved(adapter.path, adapter.header, mask)
    for name, part in mask.items():
        require_home(model, adapter.path, name + DELTA, name, part)
    _require_apart(model, adapter, mask)
    delta = Delta(model, mask)
    file: Any = safe_open(str(adapter.path), framework="pt", device="cpu")
    with torch.no_grad():
        for name, values in delta.values().items():
            values.copy_(file.get_tensor(name + DELTA)).mul_(alpha)
    return delta


def _require_apart(model: nn.Module, adapter: AdapterFile, mask: Mask) -> None:
    """Of adapters that were composed one may name a tied head, and another its embeddings."""
    names: dict[int, str] = {}
    for name in mask:
        twin = names.setdefault(id(model.get_parameter(name)), name)
        if twin != name:
            raise AdapterError(f"{adapter.path}: {twin} and {name} are one parameter of the model", "name it once")


def require_home(model: nn.Module, path: Path | str, tensor: str, name: str, part: Part) -> None:
    """Refuse a part of a mask that a model has no place for; `tensor` of the file at `path` says it.

    Raises:
        AdapterError: the model does not have the parameter, or has it in another size or in 16 bits.
    """
    place, _, last = name.rpartition(".")
    where = f"{path}: tensor {tensor!r} is for"
    try:
        module: Any = model.get_submodule(place)
        param = module.get_parameter(last)
    except AttributeError as error:
        raise AdapterError(
            f"{where} {name}, which the model does not have", "the adapter was made for another base"
        ) from error
    if reads_half(module):
        raise AdapterError(f"{where} {name}, which is kept in 16 bits here", "load the base with --quant none")
    size = stored_shape(module, param)
    if size != part.size:
        raise AdapterError(
            f"{where} shape {list(part.size)}, the model has {list(size)} there",
            "the adapter was made for another base",
        )
