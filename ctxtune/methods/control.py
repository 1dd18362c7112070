"""A random mask to compare a chosen one with: of as many numbers, in the same tensors, of the same kinds, by lot.

Choices by weights or gradients are often no better than chance (of pruning: Su et al. 2020, "Random tickets can win the
jackpot"; of tuning: Xu & Zhang 2024, "Random masking"). The same share of each tensor is drawn, as `select: random` draws it:
which tensors get how many numbers is a part of the choice. Of whole tensors (norms, biases) nothing can be drawn: single
entries of the linear layers of their blocks take their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxtune.backend.mask import all_of, numel
from ctxtune.errors import RecipeError
from ctxtune.methods.choosing import drawn, everything, share_of
from ctxtune.methods.layers import inside
from ctxtune.recipe.mask import Mask as Settings

if TYPE_CHECKING:
    from torch import nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.mask import Mask


def alike(chosen: Mask, settings: Settings, model: nn.Module, anatomy: Anatomy, seed: int) -> Mask:
    """The random mask beside the one that `settings` chose: what `select: random` with its budget would draw; beside that of
    earlier runs from their tensors.

    Raises:
        RecipeError: it takes all there is.
    """
    if any(part.kind == "whole" for part in chosen.values()):
        whole = _linear_layers(chosen, model, anatomy)
    elif settings.select == "file":
        whole = {name: all_of(part.kind, part.size) for name, part in chosen.items()}
    else:
        whole = everything(settings, model, anatomy)
    if numel(chosen) >= numel(whole):
        raise RecipeError(
            "method.control: the mask takes all there is, and no other is left to draw by lot", "leave it out"
        )
    share = numel(chosen) / numel(whole)
    if settings.select == "l0":  # how many stay is known when the gates have decided, to less than a unit
        share = share_of(settings, {name: part.size for name, part in whole.items()})
    return drawn(whole, share, seed)


def _linear_layers(chosen: Mask, model: nn.Module, anatomy: Anatomy) -> Mask:
    """All entries of those of the blocks in which a mask has a part."""

    def block(name: str) -> str:
        return name.removeprefix(f"{anatomy.blocks}.").partition(".")[0]

    blocks = {block(name) for name in chosen if inside(name, anatomy.blocks)}
    every = everything(Settings(name="mask", shape="entries"), model, anatomy)
    return {name: part for name, part in every.items() if block(name) in blocks}
