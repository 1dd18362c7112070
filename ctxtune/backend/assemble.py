"""A model put together tensor by tensor: what is quantised is in memory as floats one layer at a time.

The modules are those that transformers makes of the config; each parameter is read from the mapped files, made float32 or of
the narrower type that was asked for, quantised where that was asked for, and put in its place.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GenerationConfig

from ctxtune.backend.bits import stored_as
from ctxtune.backend.classifier import fresh_head
from ctxtune.backend.folder import weight_files
from ctxtune.backend.precision import kept_wide
from ctxtune.backend.quantise import Quantised, quantisable
from ctxtune.backend.skeleton import check_headers, skeleton, stored_names, tied_groups
from ctxtune.backend.words import keep_words

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from ctxtune.backend.anatomy import Anatomy

GENERATION = "generation_config.json"


def assemble(
    folder: Path,
    quant: str,
    moving: Collection[str],
    classes: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[nn.Module, Anatomy, int]:
    """The model of `folder`, its frozen linear layers quantised unless `quant` is none; its anatomy, how many numbers it has.

    Modules in which a parameter of `moving` lies stay float32. An encoder without a head gets one over `classes`.

    Raises:
        ModelError: the files do not hold what config.json promises.
    """
    model, anatomy = skeleton(folder, classes, buffers=True)
    check_headers(model, anatomy, folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    chosen = set(quantisable(model, anatomy, moving)) if quant != "none" else set()
    words = keep_words(model, folder, moving) if quant != "none" and dtype is torch.float32 else set()
    with ExitStack() as stack:
        stored, rounded = _opened(folder, stack), _opened(folder, stack)
        homes = stored_names(model, stored)
        fresh = fresh_head(model, anatomy, homes)
        wide = kept_wide(model, moving)
        for names in tied_groups(model):
            place, _, last = names[0].rpartition(".")
            if names[0] in fresh:
                _fill(model, {names[0]: fresh[names[0]]})
            elif last == "weight" and place in chosen:
                _quantise(model, place, _values(names, homes, rounded)[names[0]], quant)
            else:
                kind = torch.float32 if names[0] in wide else dtype
                _fill(model, _values(names, homes, stored, None if names[0] in words else kind))
        for name, buffer in model.named_buffers():
            if name in stored:
                buffer.copy_(stored[name].get_tensor(name))
    if (folder / GENERATION).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, anatomy, parameters


def _opened(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Name of a tensor -> its file, mapped anew: what is only read through this map leaves memory with it."""
    files = [stack.enter_context(safe_open(str(path), framework="pt")) for path in weight_files(folder)]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118


def _values(
    names: list[str], homes: Mapping[str, str], stored: Mapping[str, Any], dtype: torch.dtype | None = torch.float32
) -> dict[str, Tensor]:
    """The value of each name of one parameter: one tensor for all, unless the files hold different ones."""
    own: dict[str, Tensor] = {}
    for name in names:
        if (key := homes.get(name)) is not None:
            # What is stored in this type stays in the mapped file, as transformers leaves it: a write makes a copy of the page.
            value = stored[key].get_tensor(key)
            value = value if dtype is None else value.to(dtype)
            own[name] = next((other for other in own.values() if torch.equal(other, value)), value)
    first = next(iter(own.values()))
    return {name: own.get(name, first) for name in names}


def _fill(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    made: dict[int, nn.Parameter] = {}
    for name, value in values.items():
        place, _, last = name.rpartition(".")
        parameter = made.setdefault(id(value), nn.Parameter(value, requires_grad=False))
        setattr(model.get_submodule(place), last, parameter)


def _quantise(model: nn.Module, place: str, value: Tensor, quant: str) -> None:
    """Put a quantised layer in the place of a linear one."""
    module: Any = model.get_submodule(place)
    rows = value if isinstance(module, nn.Linear) else value.t()  # Conv1D stores (K, N)
    above, _, last = place.rpartition(".")
    setattr(model.get_submodule(above), last, Quantised(rows, module.bias, stored_as(place, quant)))
