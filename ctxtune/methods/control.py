"""A random mask to compare a chosen one with: of as many numbers, in the same tensors, of the same kinds, by lot.

Choices by weights or gradients are often no better than chance (of pruning: Su et al. 2020, "Random tickets can win the
jackpot"; of tuning: Xu & Zhang 2024, "Random masking"). The same share of each tensor is drawn, as `select: random` draws it:
which tensors get how many numbers is a part of the choice. Of whole tensors (norms, biases) nothing can be drawn: single
entries of the linear layers of their blocks take their place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ctxtune.backend.mask import numel
from ctxtune.errors import RecipeError
from ctxtune.methods.choosing import candidates, drawn, kinds_of, share_of
from ctxtune.methods.layers import inside
from ctxtune.recipe.mask import Mask as Settings

if TYPE_CHECKING:
    from torch import nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.mask import Kind, Mask


def alike(chosen: Mask, settings: Settings, model: nn.Module, anatomy: Anatomy, seed: int) -> Mask:
    """The random mask beside the one that `settings` chose: what `select: random` with its budget would draw; beside that of
    earlier runs from their tensors.

    Raises:
        RecipeError: it takes all there is.
    """
    kinds: dict[str, Kind] = {name: part.kind for name, part in chosen.items()}
    sizes = {name: part.size for name, part in chosen.items()}
    if "whole" in kinds.values():
        sizes = _linear_layers(chosen, model, anatomy)
        kinds = dict.fromkeys(sizes, "entries")
    elif settings.select != "file":
        sizes = candidates(settings, model, anatomy)
        kinds = kinds_of(settings, model, sizes)
    total = sum(map(math.prod, sizes.values()))
    if numel(chosen) >= total:
        raise RecipeError(
            "method.control: the mask takes all there is, and no other is left to draw by lot", "leave it out"
        )
    # Of gates it is known how many stay when they have decided, to less than a unit.
    share = share_of(settings, sizes) if settings.select == "l0" else numel(chosen) / total
    return drawn(kinds, sizes, share, seed)


def _linear_layers(chosen: Mask, model: nn.Module, anatomy: Anatomy) -> dict[str, tuple[int, ...]]:
    """Those of the blocks in which a mask has a part."""

    def block(name: str) -> str:
        return name.removeprefix(f"{anatomy.blocks}.").partition(".")[0]

    blocks = {block(name) for name in chosen if inside(name, anatomy.blocks)}
    every = candidates(Settings(name="mask"), model, anatomy)
    return {name: size for name, size in every.items() if block(name) in blocks}
