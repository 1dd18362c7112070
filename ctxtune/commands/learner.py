"""The base of a run that trains, loaded so that equal seeds give equal numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxtune.commands import depth, prepare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base
    from ctxtune.recipe.schema import Recipe


def load_to_train(recipe: Recipe, folder: Path, say: Callable[[str], None]) -> Base:
    """The base in `folder`, what may move in float, after torch's chance is set.

    Raises:
        ModelError: it cannot be loaded.
    """
    import torch

    from ctxtune.backend.load import load_base

    say(f"loading {recipe.model}")
    torch.manual_seed(recipe.train.seed)
    moving, classes = depth.moving(recipe, folder), prepare.classes(recipe.data)
    base = load_base(folder, recipe.device, recipe.quant, moving, classes, recipe.dtype)
    for remark in base.remarks:
        say(remark)
    if said := prepare.untrained(base):
        say(said)
    return base
