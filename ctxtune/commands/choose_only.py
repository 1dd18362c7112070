"""The story of a mask that is chosen and not trained: load -> choose -> write. A recipe that names its file trains it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.adapter.mask import write_mask
from ctxtune.backend.atomic import check_writable, storing
from ctxtune.backend.folder import resolve_model
from ctxtune.commands import prepare
from ctxtune.commands.chosen_mask import backward_over, mask_manifest
from ctxtune.commands.earlier_masks import check_masks, mask_inputs
from ctxtune.commands.guard import check_guarded
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.commands.learner import load_to_train
from ctxtune.commands.lesson import lesson
from ctxtune.commands.minding import minding_over
from ctxtune.commands.sources import read_sources, span
from ctxtune.errors import PlaceError, RecipeError
from ctxtune.methods.motion import Span
from ctxtune.recipe.dump import dump
from ctxtune.recipe.mask import AUTO, BY_LOSS, Mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base
    from ctxtune.commands.sources import Sources
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Recipe


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
    _check_untrained(recipe.method)
    out = _free_file(recipe.out)
    sources = read_sources(recipe, say) if recipe.method.select in (AUTO, *BY_LOSS) else None
    for remark in recipe.method.unused() if sources is None else ():
        say(remark)
    inputs = sources.inputs if sources is not None else mask_inputs(recipe)
    folder = resolve_model(recipe.model, say)
    base, mark = load_to_train(recipe, folder, say), fingerprint(folder)
    prepare.check_model(recipe, mark)
    check_guarded(recipe, base.anatomy)
    check_masks(recipe, mark)
    course = _course(recipe, sources, base, mark) if sources is not None else Span(0, 0, recipe.train.seed)
    settings = recipe.method.of_base(base.anatomy.kind)
    with heartbeat(say, f"choosing the numbers of the mask by {settings.select}"):
        mask = select(settings, base.model, base.anatomy, course)
    text = dump(resolved, relative_to=Path.cwd(), inputs={**inputs, "model": mark})
    manifest = mask_manifest(recipe, text, base, mark, inputs)
    return ChosenMask(out, write_mask(out, mask, manifest), numel(mask), len(mask))


def _check_untrained(settings: Mask) -> None:
    if settings.select == "l0" or settings.learn == "bits":
        told = "learn bits" if settings.learn == "bits" else "select l0"
        raise RecipeError(
            f"--choose-only trains nothing, and {told} learns what it chooses",
            "leave it out; --select file:RUN then takes what a run of l0 chose",
        )
    if settings.control:
        raise RecipeError(
            "--choose-only trains nothing, and control compares two masks that are trained",
            "leave --control out, or --set method.control=false",
        )


def _course(recipe: Recipe, sources: Sources, base: Base, mark: str) -> Span:
    """The run that would train the mask, with the rows that speak for it."""
    spec = prepare.encoder(recipe.data, sources.templates, base.tokenizer, base.anatomy, base.max_length)
    sources.inputs.update(prepare.chat_inputs(recipe.data, base.tokenizer, recipe.inputs or {}))
    learned = lesson(sources.train, spec, None)
    mixture = prepare.mixture(sources.train, learned.examples)
    course = span(recipe, mixture.per_epoch)
    learned = learned.replaying(sources.replay, spec)
    batches = learned.batches(mixture, course.steps, recipe)
    minding = minding_over(base, sources.guard, mark, recipe.cache)
    return replace(
        course, backward=backward_over(base, learned.only(batches.used), batches, course.steps), minding=minding
    )


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
