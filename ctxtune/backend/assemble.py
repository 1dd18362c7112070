"""A model put together tensor by tensor: what is quantised is in memory as floats one block at a time.

The modules are those that transformers makes of the config; each parameter is read from the mapped files, made float32 or of
the narrower type that was asked for, quantised where that was asked for, and put in its place.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GenerationConfig

from ctxtune.backend.bits import FOUR_BITS, stored_as
from ctxtune.backend.classifier import fresh_head
from ctxtune.backend.folder import weight_files
from ctxtune.backend.importance import begin
from ctxtune.backend.precision import kept_wide
from ctxtune.backend.quantise import Quantised, quantisable
from ctxtune.backend.skeleton import check_headers, skeleton, stored_names, tied_groups
from ctxtune.backend.tidy import give_back
from ctxtune.backend.words import keep_words

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from ctxtune.backend.anatomy import Anatomy

    Read = Callable[[list[str]], dict[str, Tensor]]

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
        stored = _opened(folder, stack)
        homes = stored_names(model, stored)
        fresh = fresh_head(model, anatomy, homes)
        weights = _Weights(model, stored, _opened(folder, stack), homes, fresh, kept_wide(model, moving), words, dtype)
        for name, buffer in model.named_buffers():
            if name in stored:
                buffer.copy_(stored[name].get_tensor(name))
        around, blocks = _by_block(model, anatomy)
        for names in around:
            weights.fill(names)
        reading = begin(model, anatomy) if chosen and quant in FOUR_BITS else None
        for index, groups in enumerate(blocks):
            weights.fill_block(groups, chosen, quant, partial(reading.through, index) if reading is not None else None)
    if chosen:
        give_back()  # what rounding has used and freed: 136 MB of SmolLM2-135M
    if (folder / GENERATION).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, anatomy, parameters


@dataclass(frozen=True)
class _Weights:
    """The numbers of a model in its files: `stored` stay mapped, those of `rounded` leave memory when this map is closed.

    Names of `wide` are float32 whatever the type of the run, those of `words` as they are stored; `fresh` are in no file.
    """

    model: nn.Module
    stored: Mapping[str, Any]
    rounded: Mapping[str, Any]
    homes: Mapping[str, str]
    fresh: Mapping[str, Tensor]
    wide: Collection[str]
    words: Collection[str]
    dtype: torch.dtype

    def fill(self, names: list[str], dtype: torch.dtype | None = None) -> None:
        """Put a parameter, which has these names, in its place, in the type of the run or another."""
        if names[0] in self.fresh:
            _fill(self.model, {names[0]: self.fresh[names[0]]})
            return
        kind = torch.float32 if names[0] in self.wide else dtype or self.dtype
        _fill(self.model, _values(names, self.homes, self.stored, None if names[0] in self.words else kind))

    def fill_block(self, groups: list[list[str]], chosen: Collection[str], quant: str, read: Read | None) -> None:
        """Put the parameters of a block in their places, the chosen linear layers quantised by what `read` says of them."""
        linear = [names for names in groups if _layer(names[0]) in chosen and names[0].endswith(".weight")]
        others = [names for names in groups if names not in linear]
        sizes: dict[str, Tensor] = {}
        if read is not None:
            for names in others:
                self.fill(names, torch.float32)
            for names in linear:
                _fill(self.model, _values(names, self.homes, self.rounded))
            sizes = read([_layer(names[0]) for names in linear])
        if read is None or self.dtype is not torch.float32:
            for names in others:
                self.fill(names)
        for names in linear:
            if read is None:
                _fill(self.model, _values(names, self.homes, self.rounded))
            _quantise(self.model, _layer(names[0]), quant, sizes.get(_layer(names[0])))


def _by_block(model: nn.Module, anatomy: Anatomy) -> tuple[list[list[str]], list[list[list[str]]]]:
    """The names of each parameter: those around the blocks, and those of each block."""
    around, inside = [], [[] for _ in anatomy.block_list(model)]  # type: list[list[str]], list[list[list[str]]]
    for names in tied_groups(model):
        first = names[0].removeprefix(f"{anatomy.blocks}.")
        (around if first == names[0] else inside[int(first.partition(".")[0])]).append(names)
    return around, inside


def _layer(name: str) -> str:
    """The module of a parameter."""
    return name.rpartition(".")[0]


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


def _quantise(model: nn.Module, place: str, quant: str, importance: Tensor | None) -> None:
    """Put a quantised layer in the place of a linear one; `importance` as of `levels.encode`."""
    module: Any = model.get_submodule(place)
    value = module.weight.detach()
    turned = not isinstance(module, nn.Linear)  # Conv1D stores (K, N)
    layer = Quantised(value.t() if turned else value, module.bias, stored_as(place, quant), importance, turned)
    above, _, last = place.rpartition(".")
    setattr(model.get_submodule(above), last, layer)
