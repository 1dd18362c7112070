"""What a run reads, checked before anything heavy is imported: the model's folder, the rows, the probe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.backend.folder import resolve_model
from ctxtune.commands import prepare, texts
from ctxtune.commands.control import check_control
from ctxtune.commands.earlier_masks import mask_inputs
from ctxtune.data.format import bare_name
from ctxtune.data.hash import sha256_file
from ctxtune.data.leakage import in_words, leaked_rows
from ctxtune.data.render import compile_template
from ctxtune.errors import RecipeError
from ctxtune.methods.motion import Span
from ctxtune.recipe.data import DOCUMENT
from ctxtune.recipe.mask import Mask
from ctxtune.recipe.schema import Prompt

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.recipe.data import Data
    from ctxtune.recipe.schema import Recipe


@dataclass(frozen=True)
class Sources:
    """What a run reads, checked; `replay` is learned again beside it, `guard` holds it back, `inputs` are the
    hashes, `leaked` of the rows to score stand among those to learn from."""

    train: prepare.Source
    eval: prepare.Source | None
    replay: prepare.Source | None
    probe: str | None
    guard: str | None
    templates: prepare.Templates
    model: Path
    inputs: dict[str, str]
    leaked: int


_LONGEST = 64  # characters of a run's folder that are from its rows


def read_sources(recipe: Recipe, say: Callable[[str], None]) -> Sources:
    """Read and check every input. Imports no torch (but to convert a .gguf file, once): mistakes are found at once.

    Raises:
        RecipeError, DataError, ModelError, AdapterError: naming the file, the line and the key.
    """
    data, known = recipe.data, recipe.inputs or {}
    if data.train is None:
        raise RecipeError("data.train is missing", "name the rows to learn from: --train FILE")
    check_scored(data)
    check_control(recipe)
    if not data.scored and (recipe.train.patience is not None or recipe.train.eval_every is not None):
        key = "train.patience" if recipe.train.patience is not None else "train.eval_every"
        raise RecipeError(f"{key} needs rows to score, and data.eval is missing", "name them: --eval FILE")
    if recipe.dtype == "float16":
        raise RecipeError(
            "dtype float16 does not train: gradients below 6e-8 vanish in it",
            "use bfloat16 or float32; eval and generate take float16",
        )
    templates = prepare.compile_templates(data)
    answered = not (isinstance(recipe.method, Prompt) and recipe.method.distill_from is not None)
    train, dev, again = _rows(recipe, templates, answered)
    probe = texts.probe_text(recipe.forget.probe)
    inputs = train.inputs("train") | (dev.inputs("eval") if dev and data.eval else {}) | mask_inputs(recipe)
    inputs |= again.inputs("replay") if again else {}
    if (probe_path := recipe.forget.probe) not in ("builtin", "none"):
        inputs["probe"] = prepare.checked_hash(sha256_file(probe_path), probe_path, known.get("probe"), "probe")
    guard, guard_inputs = _guard_text(recipe, probe, say)
    inputs.update(guard_inputs)
    for remark in recipe.method.unused() if isinstance(recipe.method, Mask) else ():
        say(remark)
    model = resolve_model(recipe.model, say)
    spec = prepare.unbound(data, templates)
    leaked = leaked_rows(train.rows, dev.rows, spec if answered else prepare.unanswered(spec)) if dev else 0
    if dev and leaked:
        say(f"{in_words(leaked, len(dev.rows))}: the scores say little of other rows")
    return Sources(train, dev, again, probe, guard, templates, model, inputs, leaked)


def _rows(
    recipe: Recipe, templates: prepare.Templates, answered: bool
) -> tuple[prepare.Source, prepare.Source | None, prepare.Source | None]:
    """What is learned, what is scored, and what is learned again; of running text its end is scored where no other is named."""
    data, known = recipe.data, recipe.inputs or {}
    assert data.train is not None

    def scored() -> prepare.Source | None:
        return prepare.read_source(data.eval, data, templates, known.get("eval"), "eval") if data.eval else None

    if templates.text is None:
        train = prepare.read_once(data.train, data, templates, known.get("train"), "train", answered)
        return train, scored(), None
    with prepare.at_hand(data.train) as paths:
        share = data.held_out if data.eval is None else 0.0
        train, end = prepare.read_running(paths, templates.text, known.get("train"), "train", share)
    if data.replay is None:
        return train, end or scored(), None
    template = compile_template(DOCUMENT, "data.replay")
    again, _ = prepare.read_running(data.replay, template, known.get("replay"), "replay")
    return train, end or scored(), again


def _guard_text(recipe: Recipe, probe: str | None, say: Callable[[str], None]) -> tuple[str | None, dict[str, str]]:
    """The text that a forgetting budget is trained on, that says what EWC costs and what a mask is chosen by; None where there
    is none of these; and the hash of one's own.

    Raises:
        RecipeError: it is the probe, by another name.
        DataError: it cannot be read.
    """
    path = recipe.forget.text
    if recipe.forget.budget is None and not (isinstance(recipe.method, Mask) and recipe.method.reads_text):
        if path != "builtin":
            say(f"forget.text {path} is not used: there is no budget, no method.ewc and no method.select contrast")
        return None, {}
    text = texts.guard_text(path)
    if text == probe:
        raise RecipeError(
            f"forget.text {path} is the probe itself: what is trained on measures nothing", "another text"
        )
    if path == "builtin":
        return text, {}
    return text, {"guard": prepare.checked_hash(sha256_file(path), path, (recipe.inputs or {}).get("guard"), "guard")}


def check_scored(data: Data) -> None:
    """Refuse rows to score that come through a pipe.

    Raises:
        RecipeError: they do.
    """
    if data.eval == "-":
        raise RecipeError(
            "data.eval -: a run scores its rows again and again, and keeps only rows to learn from of a pipe",
            "save them to a file, and name it",
        )


def default_out(recipe: Recipe) -> str:
    """Where a run goes when nobody says: named after its data and method."""
    train = recipe.data.train
    name = "stdin" if train in (None, "-") else bare_name(Path(prepare.parts_of(train or "")[0].path)).replace(":", "-")
    return f"runs/{name[:_LONGEST]}-{recipe.method.name}"


def span(recipe: Recipe, examples: int) -> Span:
    """How many optimiser steps a run takes, and how many of them are an epoch."""
    per_epoch = math.ceil(examples / recipe.train.batch)
    steps = recipe.train.steps or max(1, math.ceil(recipe.train.epochs * per_epoch))
    return Span(steps, per_epoch, recipe.train.seed)
