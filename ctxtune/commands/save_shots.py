"""Demonstrations that were chosen become an adapter: their tokens -> what the model makes of them -> one file for PEFT."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.folder import require_new
from ctxtune.backend.atomic import check_writable
from ctxtune.data.finite import finite
from ctxtune.data.joint import joint
from ctxtune.errors import ModelError, RecipeError
from ctxtune.methods.fewshot import behind
from ctxtune.recipe.schema import Fewshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctxtune.backend.load import Base
    from ctxtune.backend.prefix import Prefix
    from ctxtune.commands.asking import Asking
    from ctxtune.commands.draws import Draw
    from ctxtune.data.read import Row
    from ctxtune.methods.fewshot import Shots
    from ctxtune.recipe.data import Data
    from ctxtune.recipe.load import Resolved

_QUESTIONS = 64  # on which it is tried where demonstrations end


def unsaved(settings: Fewshot, data: Data) -> tuple[str, str] | None:
    """Why what a recipe asks for is not one set of demonstrations with constants beside it, and what would be."""
    if settings.chat or settings.replay is not None:
        rule = "chat" if settings.chat else f"replay {settings.replay}"
        return (
            f"{rule} writes a question in a way of its own, and an adapter stands before plain text",
            f"leave {rule} out",
        )
    if settings.by_question:
        return (
            f"select {settings.select} shows each question other examples, and an adapter holds one set",
            "--select fixed, random, balanced or influence",
        )
    if settings.seeds > 1:
        return f"{settings.seeds} draws are {settings.seeds} sets, and an adapter holds one", "--seeds 1"
    if not settings.shots and not data.instruction:
        return "with no demonstrations and no data.instruction there is nothing to hold", "--shots 8"
    if settings.calibrate == "channel" or (settings.calibrate != "none" and not isinstance(data.choices, list)):
        return (
            f"calibration {settings.calibrate} asks for something else of every row, and an adapter holds constants",
            "--calibrate none, or with choices that all rows share contextual, domain, batch or pmi",
        )
    return None


def check_saved(folder: Path, settings: Fewshot, data: Data) -> None:
    """Refuse, before anything is loaded, what no adapter holds.

    Raises:
        RecipeError: there are several sets of demonstrations, or none; a calibration that comes to no constants.
        PlaceError: something lies in the folder, or it cannot be made.
    """
    if (why := unsaved(settings, data)) is not None:
        raise RecipeError(f"--save: {why[0]}", why[1])
    require_new(folder)
    check_writable(folder)


def check_going_on(base: Base) -> None:
    """Refuse a model whose demonstrations no adapter can hold.

    Raises:
        ModelError: it is such a one.
    """
    from ctxtune.backend.prefix import require_going_on
    from ctxtune.backend.trunk import Trunk

    require_going_on(Trunk(base))


def save_shots(
    folder: Path, resolved: Resolved, run: Asking, shots: Shots, rows: Sequence[Row], draw: Draw,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Write the adapter; returns what it holds, and where it is."""
    from ctxtune.adapter.card import model_card
    from ctxtune.adapter.manifest import BaseModel, Change, Manifest, Shown
    from ctxtune.adapter.prefix import ROWS, Layout, prefix_config
    from ctxtune.adapter.write import write_adapter
    from ctxtune.backend.prefix import as_rows

    recipe, settings = resolved.recipe, resolved.recipe.method
    assert isinstance(settings, Fewshot)
    with run.clock.part("save"):
        prefix, alone = _read(run, shots, rows)
        layout = Layout(len(prefix.tokens), len(prefix.layers), *_heads_and_dim(prefix, run.base))
        shown = Shown(
            instruction=run.spec.instruction,
            texts=[shot.text for shot in shots],
            where=[Path(shot.where).name for shot in shots],
            tokens=list(prefix.tokens),
            alone=alone,
            heads=layout.heads,
            layers=layout.layers,
            calibrate=settings.calibrate,
            bias=_bias(draw, settings.calibrate, recipe.data.choices),
        )
        manifest = Manifest(
            method=settings.name,
            settings=settings.model_dump(exclude={"name"}),
            recipe=run.recipe_text(resolved, Path.cwd()),
            base=BaseModel(recipe.model, run.mark),
            quant=recipe.quant,
            inputs=run.inputs,
            seed=settings.seed,
            trainable=0,
            shown=shown,
            scores=Change({}, finite(draw.facts["scores"])),
        )
        config = prefix_config(layout, recipe.model)
        size = write_adapter(folder, {ROWS: as_rows(prefix.layers)[0]}, manifest, config, model_card(manifest))
    if not alone:
        say(
            "the tokenizer makes other tokens of a question that stands alone: for PEFT the adapter's README.md says which"
        )
    told = {"demonstrations": len(shots), "tokens": layout.tokens, "question_alone": alone}
    return {"folder": str(folder), "bytes": size, **told}


def _read(run: Asking, shots: Shots, rows: Sequence[Row]) -> tuple[Prefix, bool]:
    """What all questions go on from, mostly read already, and whether a question's own tokens stand behind it."""
    from ctxtune.backend.prefix import read_prefix
    from ctxtune.backend.trunk import Trunk

    front, tokens = behind(shots, run.spec).instruction, run.base.tokenizer
    asked = [run.spec.prompt.render(row).rstrip() for row in islice(rows, _QUESTIONS)]
    found = joint(tokens, front, [*asked, *(shot.question.rstrip() for shot in shots)])
    if not found.tokens:
        raise ModelError("the tokenizer leaves the demonstrations no token of their own", "add one more: --shots")
    before = run.last.shared_with(found.tokens) if run.last is not None else None
    return read_prefix(Trunk(run.base), found.tokens, "off", run.mark, before), found.alone


def _heads_and_dim(prefix: Prefix, base: Base) -> tuple[int, int]:
    """Of keys and values, the same in all layers.

    Raises:
        ModelError: they differ, and PEFT has no place for such.
    """
    shapes = {(part.shape[1], part.shape[3]) for layer in prefix.layers for part in layer}
    if len(shapes) > 1:
        raise ModelError(
            f"the layers of a {base.anatomy.family} model keep keys and values of several sizes, an adapter has room for one"
        )
    heads, dim = shapes.pop()
    return int(heads), int(dim)


def _bias(draw: Draw, name: str, choices: list[str] | str | None) -> dict[str, float]:
    """What the calibration adds to log p of each choice: the same in every row."""
    if name == "none":
        return {}
    assert isinstance(choices, list)
    said = next(item.said["calibrated"] for item in draw.answers.items if item is not None)
    return {choice: new - old for choice, new, old in zip(choices, said[name], said["none"], strict=True)}
