"""The story of a mask that is chosen and not trained: load -> choose -> write. A recipe that names its file trains it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.adapter.manifest import BaseModel, Manifest
from ctxtune.adapter.mask import write_mask
from ctxtune.backend.atomic import check_writable, storing
from ctxtune.backend.folder import resolve_model
from ctxtune.commands import prepare
from ctxtune.commands.earlier_masks import check_masks, mask_inputs
from ctxtune.commands.learner import load_to_train
from ctxtune.errors import PlaceError, RecipeError
from ctxtune.recipe.dump import dump
from ctxtune.recipe.mask import Mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.recipe.load import Resolved


@dataclass(frozen=True)
class ChosenMask:
    """A mask that was written: so many numbers of so many parameters."""

    file: Path
    num_bytes: int
    numbers: int
    parameters: int


def choose_only(resolved: Resolved, say: Callable[[str], None]) -> ChosenMask:
    """Choose what a recipe asks for, and write it to the file that `out` names.

    Raises:
        RecipeError, ModelError, AdapterError: as a run with the recipe does before it trains.
        PlaceError: the file is there already, or cannot be written.
    """
    from ctxtune.backend.fingerprint import fingerprint
    from ctxtune.backend.mask import numel
    from ctxtune.methods.choosing import select

    recipe = resolved.recipe
    assert isinstance(recipe.method, Mask)
    out = _free_file(recipe.out)
    inputs = mask_inputs(recipe)
    folder = resolve_model(recipe.model, say)
    base, mark = load_to_train(recipe, folder, say), fingerprint(folder)
    prepare.check_model(recipe, mark)
    check_masks(recipe, mark)
    mask = select(recipe.method, base.model, base.anatomy, recipe.train.seed)
    inputs = {**inputs, "model": mark}
    manifest = Manifest(
        method=recipe.method.name,
        settings=recipe.method.model_dump(exclude={"name"}),
        recipe=dump(resolved, relative_to=Path.cwd(), inputs=inputs),
        base=BaseModel(recipe.model, mark, base.anatomy.kind == "causal"),
        quant=recipe.quant,
        inputs=inputs,
        seed=recipe.train.seed,
        trainable=0,
    )
    return ChosenMask(out, write_mask(out, mask, manifest), numel(mask), len(mask))


def _free_file(out: str | None) -> Path:
    if out is None:
        raise RecipeError("--choose-only writes a file, and --out names none", "--out mask.safetensors")
    path = Path(out)
    with storing(path):
        if os.path.lexists(path):
            raise PlaceError(f"--out {path} is there already", "name a new file")
        if not path.absolute().parent.is_dir():
            raise PlaceError(f"--out {path}: there is no folder {path.parent}", f"mkdir {path.parent}")
    check_writable(path)
    return path
