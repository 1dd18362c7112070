"""Which numbers a mask chooses: the tensors they lie in, what speaks for each unit, and how many units that makes of each.

A unit is what `shape` says: a row, a column, a block, a single entry. What speaks for it is the mean over its entries of

    magnitude   |W|
    lift        |W_r|, W_r the approximation of rank r nearest to W     (Liu et al. 2025, "LIFT": principal weights)

Units are ranked over all tensors together, each tensor keeping a tenth of its share at least; `random` draws the same share
of each by lot, `bias` and `norms` take all of these, `file` what earlier masks say (reused.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ctxtune.backend.mask import Part, numel, units
from ctxtune.backend.quantise import Quantised, is_linear, is_turned, stored_shape
from ctxtune.errors import RecipeError
from ctxtune.methods.layers import choose, inside, unique
from ctxtune.methods.reused import earlier_mask, reused
from ctxtune.recipe.layers import read_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.mask import Kind, Mask
    from ctxtune.recipe.mask import Mask as Settings

_LEAST = 0.1  # of its share that a tensor keeps where all are ranked together
_EXACT = 128  # the smaller side of a matrix, up to which all singular values cost no more than the largest few
_MORE = 8  # directions beside those asked for, and passes, with which the largest are found (Halko et al. 2011)
_PASSES = 4


def candidates(settings: Settings, model: nn.Module, anatomy: Anatomy) -> dict[str, tuple[int, ...]]:
    """The tensors that numbers are chosen from, each with its size as it is stored.

    Raises:
        RecipeError: there are none.
    """
    everything = dict(model.named_parameters(remove_duplicate=False))
    num_layers = len(anatomy.block_list(model))
    named = {term.name for term in read_layers(settings.layers)}
    found = {}
    for name in unique(everything, choose(settings.layers, list(everything), anatomy, num_layers)):
        module = model.get_submodule(name.rpartition(".")[0])
        if _takes(settings.select, name, module, anatomy, named):
            found[name] = stored_shape(module, everything[name])
    if not found:
        kinds = {"bias": "biases", "norms": "norms"}.get(settings.select, "linear layers")
        raise RecipeError(
            f"method.layers {settings.layers!r}, select {settings.select}: this model has no {kinds} there",
            "--select random, or other --layers",
        )
    return found


def outside_blocks(settings: Settings, model: nn.Module, anatomy: Anatomy) -> list[str]:
    """The tensors that numbers are chosen from, or were, and that lie in no block."""
    names = earlier_mask(settings) if settings.select == "file" else candidates(settings, model, anatomy)
    return [name for name in names if not inside(name, anatomy.blocks)]


def _takes(select: str, name: str, module: nn.Module, anatomy: Anatomy, named: set[str]) -> bool:
    """Whether a tensor has a part in the choice."""
    within = inside(name, anatomy.blocks)
    if select == "bias":
        return within and name.endswith(".bias")
    if select == "norms":
        return "norm" in type(module).__name__.lower()
    if within:
        return name.endswith(".weight") and (is_linear(module) or isinstance(module, Quantised))
    words = "embeddings" in named and any(inside(name, place) for place in anatomy.embeddings)
    return (words or ("head" in named and anatomy.in_head(name))) and name.endswith(".weight")


def select(settings: Settings, model: nn.Module, anatomy: Anatomy, seed: int) -> Mask:
    """The mask that a recipe asks for.

    Raises:
        RecipeError: it chooses nothing of this model, or the budget is larger than all there is to choose from.
        AdapterError: an earlier mask is for another model.
    """
    if settings.select == "file":
        return reused(settings, model)
    tensors = candidates(settings, model, anatomy)
    if settings.select in ("bias", "norms"):
        return {name: Part("whole", size, np.arange(0)) for name, size in tensors.items()}
    total = sum(int(np.prod(size)) for size in tensors.values())
    if (settings.budget or 0) > total:
        raise RecipeError(
            f"method.budget {settings.budget:,}: the layers chosen have {total:,} weights", "a smaller one"
        )
    density = settings.density if settings.budget is None else settings.budget / total
    kinds = {name: _kind(settings.shape, model, name, size) for name, size in tensors.items()}
    count = {name: units(kinds[name], size) for name, size in tensors.items()}
    told = not next(model.parameters()).is_meta  # a skeleton has no weights to rank: as many are drawn in their place
    if settings.select == "random" or not told:
        chance = np.random.default_rng([seed, 77])
        return {
            name: Part(
                kinds[name], size, np.sort(chance.choice(count[name], _share(density, count[name]), replace=False))
            )
            for name, size in tensors.items()
        }
    scores = {name: _score(settings, _float_weight(model, name), kinds[name], seed) for name in tensors}
    return ranked({name: Part(kinds[name], tensors[name], np.arange(count[name])) for name in tensors}, scores, density)


def ranked(whole: Mapping[str, Part], scores: Mapping[str, Tensor], density: float) -> Mask:
    """The units with the highest scores of all tensors together; each tensor keeps a tenth of its share at least.

    Units of larger tensors hold more numbers: what is filled is the budget of numbers. The score to reach is found by
    bisection, so that nothing is sorted across tensors.
    """
    least = {name: _share(_LEAST * density, len(part.index)) for name, part in whole.items()}
    width = {name: part.numel // len(part.index) for name, part in whole.items()}

    def taken(score: float) -> dict[str, int]:
        return {name: max(least[name], int((scores[name] > score).sum())) for name in whole}

    low, high = -1.0, max(float(some.max()) for some in scores.values())
    for _ in range(60):
        middle = (low + high) / 2
        fits = sum(count * width[name] for name, count in taken(middle).items()) <= density * numel(whole)
        low, high = (low, middle) if fits else (middle, high)
    best = {name: scores[name].topk(count).indices.sort().values for name, count in taken(high).items()}
    return {name: Part(part.kind, part.size, best[name].cpu().numpy()) for name, part in whole.items()}


def _share(density: float, count: int) -> int:
    return max(1, round(density * count))


def _kind(shape: Kind, model: nn.Module, name: str, size: tuple[int, ...]) -> Kind:
    """Rows and columns as the layer reads them, on the axes of the tensor as it is stored; a vector has entries alone."""
    if len(size) == 1:
        return "entries"
    turned = is_turned(model.get_submodule(name.rpartition(".")[0]))
    return {"rows": "columns", "columns": "rows"}.get(shape, shape) if turned else shape  # type: ignore[return-value]


def _float_weight(model: nn.Module, name: str) -> Tensor:
    module: Any = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, Quantised):
        weight = module.float_weight()
        return weight.t() if module.turned else weight
    return model.get_parameter(name).detach().float()


def _score(settings: Settings, weight: Tensor, kind: Kind, seed: int) -> Tensor:
    """What speaks for each unit of a tensor."""
    near = weight if settings.select == "magnitude" else low_rank(weight, settings.rank, seed)
    return _means(near.abs(), kind)


def low_rank(weight: Tensor, rank: int, seed: int) -> Tensor:
    """The matrix of that rank nearest to W (N, K): its largest singular values, by random projections of a large one.

    A vector stays as it is.
    """
    if weight.dim() != 2 or rank >= min(weight.shape):
        return weight
    if min(weight.shape) <= _EXACT:
        left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    else:
        with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
            torch.manual_seed(seed)
            left, sizes, right = torch.svd_lowrank(weight, min(rank + _MORE, *weight.shape), _PASSES)
        right = right.t()
    near: Tensor = (left[:, :rank] * sizes[:rank]) @ right[:rank]
    return near


def _means(entries: Tensor, kind: Kind) -> Tensor:
    """The mean of each unit over what stands for its entries, given in the shape of the tensor."""
    if kind == "entries":
        return entries.reshape(-1)
    if kind == "blocks":
        part = Part(kind, tuple(entries.shape), np.arange(units(kind, tuple(entries.shape))))
        places = torch.from_numpy(part.entries()).to(entries.device)
        return entries.reshape(-1)[places].view(len(part.index), -1).mean(1)
    return entries.mean(1 if kind == "rows" else 0)
