"""Mask: a few numbers of the weights move, W' = W + D with D = 0 outside of a mask; all others stay as they are.

Which ones matters less than that they are spread: a random mask of one weight in a hundred learns as well as LoRA of the same
size (Bhardwaj et al. 2024, "SHiRA"; Xu & Zhang 2024, "Random masking") and moves the model less than one chosen by gradients.
Columns are the default: all weights that read one input of a layer. They cost least, since of the input of the layer these
columns alone are kept for the backward pass (backend/delta.py).

    random      units drawn by lot, the same share of each tensor
    magnitude   units with the largest mean |W|, over all tensors together, each keeping a tenth of its share at least
    bias, norms all of them (Ben Zaken et al. 2022, "BitFit")

A choice of layers (recipe/layers.py) says where; without a word of their own, embeddings and head have no part. D begins as 0
and is what weight decay and adapters know; it is rounded to the type of the file before it is scored for the last time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ctxtune.adapter.mask import DELTA, encode, sizes_text
from ctxtune.backend.delta import Delta
from ctxtune.backend.mask import Part, numel, units
from ctxtune.backend.quantise import Quantised, is_linear, is_turned, stored_shape
from ctxtune.errors import RecipeError
from ctxtune.methods.layers import choose, depth_of, inside, unique
from ctxtune.methods.motion import ENDLESS, Span
from ctxtune.recipe.layers import read_layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.mask import Kind, Mask
    from ctxtune.recipe.mask import Mask as Settings

LADDER = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_LEAST = 0.1  # of its share that a tensor keeps where all are ranked together


@dataclass(frozen=True)
class Opened:
    """A mask on a loaded base, and the changes to what it chooses."""

    mask: Mask
    delta: Delta
    start: int
    stored: torch.dtype
    virtual: None = None
    ladder: Sequence[float] = LADDER

    @property
    def params(self) -> Mapping[str, nn.Parameter]:
        """All changes in one vector."""
        return {"delta": self.delta.flat}

    def shares(self, step: int, epoch: int) -> dict[str, float]:
        """All of them move all the time."""
        return {"delta": 1.0}

    def finish(self) -> bool:
        """Round the changes to what the file can hold."""
        with torch.no_grad():
            self.delta.flat.copy_(self.delta.flat.to(self.stored))
        return self.stored is not torch.float32

    def tensors(self) -> dict[str, Tensor]:
        """Which numbers, and by how much they change."""
        found: dict[str, Tensor] = {}
        for name, values in self.delta.values().items():
            part = self.mask[name]
            found[f"{name}.{part.kind}"] = torch.from_numpy(encode(part))
            found[name + DELTA] = values.to(self.stored)
        return found

    def metadata(self) -> dict[str, str]:
        """How large each parameter is."""
        return sizes_text(self.mask)

    def config(self, base_name: str) -> None:
        """None: PEFT's sparse adapters hold less than a mask can choose; that is an export."""


def open_method(settings: Settings, model: nn.Module, anatomy: Anatomy, span: Span = ENDLESS) -> Opened:
    """Choose the numbers, and let them move.

    Raises:
        RecipeError: `settings` choose nothing of this model, or layers that it does not have.
    """
    tensors = candidates(settings, model, anatomy)
    mask = {**select(settings, model, tensors, span.seed), **_classifier(model, anatomy)}
    delta = Delta(model, mask)
    delta.learn(anatomy)
    num_layers = len(anatomy.block_list(model))
    start = min(depth_of(name, anatomy, num_layers) for name in mask)
    return Opened(mask, delta, start, getattr(torch, settings.stored))


def _classifier(model: nn.Module, anatomy: Anatomy) -> Mask:
    """All of a classifier that begins at zero: without it nothing below could be learned."""
    if anatomy.kind != "classifier":
        return {}
    heads = {name: param for name, param in model.named_parameters() if anatomy.in_head(name)}
    return {name: Part("whole", tuple(param.shape), np.arange(0)) for name, param in heads.items()}


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
    """The candidates that lie in no block."""
    return [name for name in candidates(settings, model, anatomy) if not inside(name, anatomy.blocks)]


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


def select(settings: Settings, model: nn.Module, tensors: Mapping[str, tuple[int, ...]], seed: int) -> Mask:
    """The mask over these tensors.

    Raises:
        RecipeError: the budget is larger than all of them.
    """
    if settings.select in ("bias", "norms"):
        return {name: Part("whole", size, np.arange(0)) for name, size in tensors.items()}
    total = sum(int(np.prod(size)) for size in tensors.values())
    if (settings.budget or 0) > total:
        raise RecipeError(
            f"method.budget {settings.budget:,}: the layers chosen have {total:,} weights", "a smaller one"
        )
    density = settings.density if settings.budget is None else settings.budget / total
    kinds = {name: _kind(settings.shape, model, name) for name in tensors}
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
    scores = {name: _magnitude(_float_weight(model, name), kinds[name]) for name in tensors}
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


def _kind(shape: Kind, model: nn.Module, name: str) -> Kind:
    """Rows and columns as the layer reads them, on the axes of the tensor as it is stored."""
    turned = is_turned(model.get_submodule(name.rpartition(".")[0]))
    return {"rows": "columns", "columns": "rows"}.get(shape, shape) if turned else shape  # type: ignore[return-value]


def _float_weight(model: nn.Module, name: str) -> Tensor:
    module: Any = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, Quantised):
        weight = module.float_weight()
        return weight.t() if module.turned else weight
    return model.get_parameter(name).detach().float()


def _magnitude(weight: Tensor, kind: Kind) -> Tensor:
    """The mean |W| of each unit."""
    size = weight.abs()
    if kind == "entries":
        return size.reshape(-1)
    if kind == "blocks":
        part = Part(kind, tuple(weight.shape), np.arange(units(kind, tuple(weight.shape))))
        return size.reshape(-1)[torch.from_numpy(part.entries()).to(size.device)].view(len(part.index), -1).mean(1)
    return size.mean(1 if kind == "rows" else 0)
