"""An adapter as a list of changes to parameters, the same for attaching and merging.

whole value:   W' = V
low rank:      W' = W + scale * B A          (transposed for Conv1D and embeddings)
a few numbers: W' = W + D                    (adapter/mask.py, adapter/shira.py)
bits:          W' = W M                      (adapter/bits.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from ctxtune.adapter import lora
from ctxtune.adapter.bits import BITS, read_bits
from ctxtune.adapter.bits import CONTAINER as SWITCHED
from ctxtune.adapter.container import layer_names
from ctxtune.adapter.mask import CONTAINER as MASK
from ctxtune.adapter.mask import DELTA, check_moved, read_mask
from ctxtune.adapter.prefix import shown
from ctxtune.adapter.read import check_known
from ctxtune.adapter.shira import CONTAINER as SHIRA
from ctxtune.adapter.shira import shira_names, sparse_parts
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ctxtune.adapter.lora import LowRank
    from ctxtune.adapter.read import AdapterFile
    from ctxtune.adapter.weights import Weights
    from ctxtune.backend.mask import Part


@dataclass(frozen=True)
class Change:
    """New value of one parameter. `update(old, module's class name, dtype)` computes it; it never writes into `old`."""

    module: str
    parameter: str
    tensor: str
    """a tensor of the adapter, for messages"""
    update: Callable[[torch.Tensor, str, torch.dtype], torch.Tensor]

    @property
    def name(self) -> str:
        return f"{self.module}.{self.parameter}" if self.module else self.parameter


def changes(adapter: AdapterFile) -> list[Change]:
    """The changes an adapter makes, whole values first; what stands before a text changes nothing.

    Raises:
        AdapterError: a type of adapter, or a tensor, that is not supported.
    """
    check_known(adapter)
    if shown(adapter) is not None:
        return []
    file = safe_open(str(adapter.path), framework="pt", device="cpu")
    if adapter.container == "LN_TUNING":
        names = layer_names(adapter.header.tensors)
        strange = next((name for name in adapter.header.tensors if name not in names), None)
        if strange is not None:
            raise AdapterError(f"{adapter.path}: tensor {strange!r} is not the weight or the bias of a module")
        return [_whole(adapter, file, tensor, *place) for tensor, place in names.items()]
    if adapter.container == MASK:
        mask = read_mask(adapter.path, adapter.header)
        check_moved(adapter.path, adapter.header, mask)
        return [_moved(adapter, file, name, part) for name, part in mask.items()]
    if adapter.container == SWITCHED:
        return [_switched(adapter, name, torch.from_numpy(kept)) for name, kept in read_bits(adapter).items()]
    if adapter.container == SHIRA:
        modules, whole = sparse_parts(adapter)
        return [
            *(_whole(adapter, file, tensor, *place) for tensor, place in whole.items()),
            *(_scattered(adapter, file, module) for module in modules),
        ]
    pairs, whole = lora.parts(adapter)
    return [
        *(_whole(adapter, file, tensor, *place) for tensor, place in whole.items()),
        *(_low_rank(adapter, file, pair) for pair in pairs),
    ]


def toward(old: torch.Tensor, new: torch.Tensor, alpha: float) -> torch.Tensor:
    """W + alpha (W' - W) in W's type, exactly W at 0 and W' at 1: between the base and the tuned (Wortsman et al. 2022)."""
    if alpha in (0.0, 1.0):
        return new if alpha else old
    exact = torch.promote_types(old.dtype, torch.float32)
    return old.to(exact).lerp(new.to(old.device, exact), alpha).to(old.dtype)


def parameters_of(adapter: AdapterFile) -> list[str]:
    """The parameters that an adapter gives new values."""
    return [change.name for change in changes(adapter)]


def _whole(adapter: AdapterFile, file: Any, tensor: str, module: str, parameter: str) -> Change:
    def update(old: torch.Tensor, kind: str, dtype: torch.dtype) -> torch.Tensor:
        value: torch.Tensor = file.get_tensor(tensor)
        _require_shape(adapter, tensor, old, value.shape)
        # The reader may hand out the file's own pages: a file that is changed later must not change the model.
        return value.to(dtype, copy=True)

    return Change(module, parameter, tensor, update)


def _low_rank(adapter: AdapterFile, file: Any, pair: LowRank) -> Change:
    def update(old: torch.Tensor, kind: str, dtype: torch.dtype) -> torch.Tensor:
        exact = torch.promote_types(old.dtype, torch.float32)
        a, b = (file.get_tensor(name).to(old.device, exact) for name in (pair.a, pair.b))
        delta = pair.scale * (b @ a)
        if pair.embedding != (kind == "Embedding"):
            raise AdapterError(f"{adapter.path}: tensor {pair.a!r} does not fit {pair.module}, a {kind}")
        if kind in ("Conv1D", "Embedding"):  # their weights are stored [in, out]
            delta = delta.T
        _require_shape(adapter, pair.a, old, delta.shape)
        new: torch.Tensor = (old.to(exact) + delta).to(dtype)
        return new

    return Change(pair.module, "weight", pair.a, update)


def _moved(adapter: AdapterFile, file: Any, name: str, part: Part) -> Change:
    module, _, parameter = name.rpartition(".")
    tensor = name + DELTA

    def update(old: torch.Tensor, kind: str, dtype: torch.dtype) -> torch.Tensor:
        _require_shape(adapter, tensor, old, torch.Size(part.size))
        exact = torch.promote_types(old.dtype, torch.float32)
        new = old.to(exact, copy=True)
        delta = file.get_tensor(tensor).to(old.device, exact).reshape(-1)
        new.view(-1)[torch.from_numpy(part.entries()).to(old.device)] += delta
        return new.to(dtype)

    return Change(module, parameter, tensor, update)


def _switched(adapter: AdapterFile, name: str, kept: torch.Tensor) -> Change:
    module, _, parameter = name.rpartition(".")

    def update(old: torch.Tensor, kind: str, dtype: torch.dtype) -> torch.Tensor:
        _require_shape(adapter, name + BITS, old, kept.shape)
        return old.where(kept.to(old.device), old.new_zeros(())).to(dtype)

    return Change(module, parameter, name + BITS, update)


def _scattered(adapter: AdapterFile, file: Any, module: str) -> Change:
    weight, indices = shira_names(module)

    def update(old: torch.Tensor, kind: str, dtype: torch.dtype) -> torch.Tensor:
        rows, columns = file.get_tensor(indices).to(old.device, torch.int64)
        fits = old.dim() == 2 and rows.min() >= 0 and columns.min() >= 0
        if kind != "Linear" or not fits or rows.max() >= old.shape[0] or columns.max() >= old.shape[1]:
            raise AdapterError(
                f"{adapter.path}: tensor {indices!r} has places outside of {module}, a {kind} of shape {list(old.shape)}",
                "the adapter was made for another base",
            )
        exact = torch.promote_types(old.dtype, torch.float32)
        delta = file.get_tensor(weight).to(old.device, exact)
        return old.to(exact).index_put((rows, columns), delta, accumulate=True).to(dtype)

    return Change(module, "weight", weight, update)


def _require_shape(adapter: AdapterFile, tensor: str, old: torch.Tensor, shape: torch.Size) -> None:
    if old.shape != shape:
        raise AdapterError(
            f"{adapter.path}: tensor {tensor!r} is for shape {list(shape)}, the model has {list(old.shape)} there",
            "the adapter was made for another base",
        )


def by_parameter(items: list[Change]) -> Iterator[tuple[Change, ...]]:
    """The changes of each parameter together, in their order."""
    groups: dict[str, list[Change]] = {}
    for change in items:
        groups.setdefault(change.name, []).append(change)
    yield from (tuple(group) for group in groups.values())


def tuned(weights: Weights, found: Mapping[str, Change], name: str) -> torch.Tensor:
    """A parameter of the base with the change of its name, if there is one, in float32 at least."""
    module = weights.module(name)
    old = weights.read(name, module.get_parameter(name.rpartition(".")[2]).shape)
    exact = torch.promote_types(old.dtype, torch.float32)
    if name not in found:
        return old.to(exact)
    return found[name].update(old, type(module).__name__, exact)


def tuned_module(weights: Weights, found: Mapping[str, Change], module: str) -> dict[str, torch.Tensor]:
    """All parameters of a module without modules in it, by their own names, each as it is `tuned`."""
    own = weights.model.get_submodule(module).named_parameters(recurse=False)
    return {name: tuned(weights, found, f"{module}.{name}") for name, _ in own}
