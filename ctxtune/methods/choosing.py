"""Which numbers a mask chooses: the tensors they lie in, what speaks for each unit, and how many units that makes of each.

A unit is what `shape` says: a row, a column, a block, a single entry; what speaks for it stands in scoring.py.

Units are ranked over all tensors together, each tensor keeping a tenth of its share at least; `contrast` takes the same share
of each, `random` draws it by lot, and so does `l0` for the units that get gates (gates.py); `bias` and `norms` take all of
these, `masks` what earlier ones say (reused.py). What is asked for is a number of numbers, and no choice is larger: it may be
smaller by less than the widest unit. A tensor whose share is less than a unit may get none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.adapter.moved import require_home
from ctxtune.backend.mask import Part, numel, units
from ctxtune.backend.quantise import Quantised, is_linear, is_turned, stored_shape
from ctxtune.errors import RecipeError
from ctxtune.methods.layers import choose, inside, unique
from ctxtune.methods.reused import earlier_mask
from ctxtune.methods.scoring import contrasted, of_gradients, of_weights
from ctxtune.recipe.layers import read_layers
from ctxtune.recipe.mask import BY_LOSS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.mask import Kind, Mask
    from ctxtune.methods.motion import Span
    from ctxtune.recipe.mask import Mask as Settings

_LEAST = 0.1  # of its share that a tensor keeps where all are ranked together
_NEAR = 1e-6  # of a unit, or of a number: what products of floats may be off by
_MORE = 10  # times as many as are to stay have gates, where nothing else is said


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
        hint = "another --select: of these a model has them everywhere or nowhere"
        if kinds == "linear layers":
            hint = "other --layers; --select norms or bias takes all of these"
        raise RecipeError(
            f"method.layers {settings.layers!r}, select {settings.select}: this model has no {kinds} there", hint
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


def select(settings: Settings, model: nn.Module, anatomy: Anatomy, span: Span) -> Mask:
    """The mask that a recipe asks for; what is `auto` is known for a run (recipe/mask.py), and without one it is by lot.

    Raises:
        RecipeError: it chooses nothing of this model, or the budget is larger than all there is to choose from.
        AdapterError: an earlier mask is for another model.
    """
    if settings.masks:
        return _reused(settings, model)
    tensors = candidates(settings, model, anatomy)
    if settings.select in ("bias", "norms"):
        return {name: Part("whole", size, np.arange(0)) for name, size in tensors.items()}
    density = share_of(settings, tensors)
    if settings.select == "l0":
        density = _candidates(settings, density)
    kinds = kinds_of(settings, model, tensors)
    told = not next(model.parameters()).is_meta  # a skeleton has no weights to rank: as many are drawn in their place
    if settings.select in ("random", "auto", "l0") or not told:
        return _some(settings, drawn(kinds, tensors, density, span.seed), kinds, tensors)
    if settings.select in BY_LOSS:
        assert span.backward is not None  # rows were read: a choice by them is made for a run
        scores = of_gradients(settings, model, kinds, span.backward)
        if settings.select == "contrast":
            scores = contrasted(scores, minded(settings, model, anatomy, span))
            return _some(settings, highest(kinds, tensors, density, scores, span.seed), kinds, tensors)
    else:
        scores = of_weights(settings, model, kinds, span.seed)
    whole = {name: Part(kinds[name], size, np.arange(units(kinds[name], size))) for name, size in tensors.items()}
    return _some(settings, ranked(whole, scores, density), kinds, tensors)


def minded(settings: Settings, model: nn.Module, anatomy: Anatomy, span: Span) -> Mapping[str, Tensor]:
    """What the base minds of a change to each unit that there is to choose from, as `span` says it."""
    assert span.minding is not None  # a choice that asks for it is made for a run
    tensors = candidates(settings, model, anatomy)
    kinds = kinds_of(settings, model, tensors)
    return span.minding(kinds, [units(kinds[name], size) for name, size in tensors.items()])


def kinds_of(settings: Settings, model: nn.Module, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Kind]:
    """What a unit of each tensor is."""
    return {name: _kind(settings.shape, model, name, size) for name, size in sizes.items()}


def drawn(kinds: Mapping[str, Kind], sizes: Mapping[str, tuple[int, ...]], density: float, seed: int) -> Mask:
    """The same share of the units of each tensor, by lot; no list is made of all units."""
    chance = np.random.default_rng([seed, 77])
    counts = _even(kinds, sizes, density, chance)
    lots = {
        name: chance.choice(units(kinds[name], sizes[name]), count, replace=False) for name, count in counts.items()
    }
    return {name: Part(kinds[name], sizes[name], np.sort(lot)) for name, lot in lots.items() if len(lot)}


def highest(
    kinds: Mapping[str, Kind], sizes: Mapping[str, tuple[int, ...]], density: float, scores: Mapping[str, Tensor], seed: int
) -> Mask:  # fmt: skip
    """The same share of the units of each tensor, those with the highest scores."""
    counts = _even(kinds, sizes, density, np.random.default_rng([seed, 77]))
    return {name: Part(kinds[name], sizes[name], _top(scores[name], count)) for name, count in counts.items() if count}


def _top(scores: Tensor, count: int) -> NDArray[np.int64]:
    """Where the highest lie."""
    found: NDArray[np.int64] = scores.topk(count).indices.sort().values.cpu().numpy()
    return found


def _even(
    kinds: Mapping[str, Kind], sizes: Mapping[str, tuple[int, ...]], density: float, chance: np.random.Generator
) -> dict[str, int]:
    """How many units the same share of each tensor is."""
    every = {name: units(kinds[name], size) for name, size in sizes.items()}
    width = {name: math.prod(size) // every[name] for name, size in sizes.items()}
    wanted = {name: density * count for name, count in every.items()}
    return _shared_out(wanted, width, _numbers(density, sum(map(math.prod, sizes.values()))), chance)


def share_of(settings: Settings, tensors: Mapping[str, tuple[int, ...]]) -> float:
    """The share of these tensors' numbers that is to move.

    Raises:
        RecipeError: the budget is larger than all of them.
    """
    total = sum(int(np.prod(size)) for size in tensors.values())
    if (settings.budget or 0) > total:
        raise RecipeError(
            f"method.budget {settings.budget:,}: the layers chosen have {total:,} weights", "a smaller one"
        )
    return settings.density if settings.budget is None else settings.budget / total


def _candidates(settings: Settings, density: float) -> float:
    """The share that has gates, of which the share `density` is to stay.

    Raises:
        RecipeError: all of it would stay.
    """
    share = min(1.0, _MORE * density) if settings.candidates is None else settings.candidates
    if share <= density:
        raise RecipeError(
            f"method.select l0: candidates {share:g} leave nothing to choose from where {density:g} is to stay",
            "a lower --density, or more candidates",
        )
    return share


def _reused(settings: Settings, model: nn.Module) -> Mask:
    """The mask of earlier runs, where this model has all that it is for."""
    mask = earlier_mask(settings)
    for name, part in mask.items():
        require_home(model, " and ".join(settings.masks), f"{name}.{part.kind}", name, part)
    return mask


def ranked(whole: Mapping[str, Part], scores: Mapping[str, Tensor], density: float, every: bool = False) -> Mask:
    """The units with the highest scores of all tensors together; each tensor keeps a tenth of its share at least, and a unit if
    one of each is no more than all that is asked for, or if it is to be `every` tensor.

    Units of larger tensors hold more numbers: what is filled is the budget of numbers. The score to reach is found by
    bisection, so that nothing is sorted across tensors; of equal ones there as many are taken as fit, the same share of each
    tensor's.
    """
    width = {name: part.numel // len(part.index) for name, part in whole.items()}
    budget = _numbers(density, numel(whole))
    one = int(every or sum(width.values()) <= budget)
    least = {name: max(one, int(_LEAST * density * len(part.index))) for name, part in whole.items()}

    def taken(score: float) -> dict[str, int]:
        return {name: max(least[name], int((scores[name] > score).sum())) for name in whole}

    high = max(float(some.max()) for some in scores.values())
    least_of_all = min(float(some.min()) for some in scores.values())
    low = least_of_all - ((high - least_of_all) or 1.0)  # near enough for scores as small as squares of gradients
    for _ in range(60):
        middle = (low + high) / 2
        fits = sum(count * width[name] for name, count in taken(middle).items()) <= budget
        low, high = (low, middle) if fits else (middle, high)
    above, equal = taken(high), taken(low)
    left = budget - sum(count * width[name] for name, count in above.items())
    share = left / (sum((equal[name] - count) * width[name] for name, count in above.items()) or 1)
    wanted = {name: count + min(1.0, share) * (equal[name] - count) for name, count in above.items()}
    counts = _shared_out(wanted, width, budget, np.random.default_rng(0))
    best = {name: _top(scores[name], count) for name, count in counts.items() if count}
    return {name: Part(whole[name].kind, whole[name].size, whole[name].index[places]) for name, places in best.items()}


def _shared_out(
    wanted: Mapping[str, float], width: Mapping[str, int], budget: int, chance: np.random.Generator
) -> dict[str, int]:
    """How many units, of `width` numbers each, a tensor gets of so many wanted: the whole ones, and of what is left of the
    budget one more where most of a unit is lacking, of equals by lot (the method of largest remainders)."""
    counts = {name: int(want + _NEAR) for name, want in wanted.items()}
    left = budget - sum(count * width[name] for name, count in counts.items())
    lacking = {name: want - counts[name] for name, want in wanted.items() if want - counts[name] > _NEAR}
    lots = dict(zip(lacking, chance.random(len(lacking)), strict=True))
    for name in sorted(lacking, key=lambda name: (-round(lacking[name], 6), lots[name])):
        if width[name] <= left:
            counts[name] += 1
            left -= width[name]
    return counts


def _numbers(density: float, total: int) -> int:
    """How many numbers a share of so many is."""
    return int(density * total + _NEAR)


def _some(settings: Settings, mask: Mask, kinds: Mapping[str, Kind], sizes: Mapping[str, tuple[int, ...]]) -> Mask:
    """The mask, if it chooses anything.

    Raises:
        RecipeError: it is asked for less than any unit has.
    """
    if mask:
        return mask
    least = min(math.prod(size) // units(kinds[name], size) for name, size in sizes.items())
    asked = f"budget {settings.budget:,}" if settings.budget is not None else f"density {settings.density:g}"
    raise RecipeError(
        f"method.{asked} chooses nothing: of these layers the smallest of {settings.shape} has {least:,} numbers",
        "a larger one, or --shape entries",
    )


def _kind(shape: Kind, model: nn.Module, name: str, size: tuple[int, ...]) -> Kind:
    """Rows and columns as the layer reads them, on the axes of the tensor as it is stored; a vector has entries alone."""
    if len(size) == 1:
        return "entries"
    turned = is_turned(model.get_submodule(name.rpartition(".")[0]))
    return {"rows": "columns", "columns": "rows"}.get(shape, shape) if turned else shape  # type: ignore[return-value]
