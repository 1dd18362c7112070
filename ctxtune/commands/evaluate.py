"""The story of an evaluation: read -> load -> attach -> score -> report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.commands import prepare
from ctxtune.commands.run_folder import RunFolder
from ctxtune.data.finite import plain
from ctxtune.errors import RecipeError
from ctxtune.recipe.load import Resolved, load
from ctxtune.recipe.read import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.load import Base
    from ctxtune.data.encode import EncodeSpec
    from ctxtune.recipe.schema import Recipe


def evaluate(
    source: str | None,
    flags: Mapping[str, object],
    sets: list[str],
    adapter: Path | None,
    force: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Score a model, with or without an adapter; returns the scores.

    Raises:
        CtxtuneError: a wrong recipe, row, model or adapter.
    """
    opened = open_given(adapter)
    recipe = resolve(source, flags, sets, opened, adapter).recipe
    if recipe.data.eval is None:
        raise RecipeError("data.eval is missing", "name the rows to score: --eval FILE")
    text = running_text(recipe)
    templates = prepare.compile_templates(recipe.data)
    rows = None if text is not None else prepare.read_source(recipe.data.eval, recipe.data, templates, None, "eval")
    base = load_with(recipe, opened, force, say)
    spec = prepare.encoder(recipe.data, templates, base.tokenizer, base.anatomy, base.max_length)
    scores = _perplexity(base, text, spec.max_length) if text is not None else _score(base, rows, spec)
    return {
        "model": recipe.model,
        "adapter": str(adapter) if adapter else None,
        "eval": recipe.data.eval,
        "scores": plain(scores),
    }


def open_given(adapter: Path | None) -> AdapterFile | None:
    """The adapter named on the command line; a run's folder stands for the adapter in it."""
    from ctxtune.adapter.read import open_adapter

    return open_adapter(adapter) if adapter is not None else None


def resolve(
    source: str | None, flags: Mapping[str, object], sets: list[str], opened: AdapterFile | None, adapter: Path | None
) -> Resolved:
    """The recipe: the one named, else that of the adapter's run, else what the adapter's manifest says of its data.

    The method plays no part in scoring; a command line without a recipe gets the plainest one.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    if source is not None:
        return load(source, given, sets)
    remembered = _from_manifest(opened) if opened is not None else {}
    found = _from_run(RunFolder(adapter)) if adapter is not None else {}
    return load(None, {"method.name": "freeze", **remembered, **found, **given}, sets)


def _from_run(run: RunFolder) -> dict[str, object]:
    """What the adapter's run folder still finds: its paths are relative to it, and either of them may have moved."""
    if not run.recipe.is_file():
        return {}
    recipe = load(str(run.recipe), {}).recipe
    places = {"model": recipe.model, "data.eval": recipe.data.eval}
    return {key: place for key, place in places.items() if place is not None and Path(place).exists()}


def _from_manifest(opened: AdapterFile) -> dict[str, object]:
    """Model, templates and choices as the adapter was trained with them; files of its author are not looked for here."""
    if opened.manifest is None:
        named = (opened.config or {}).get("base_model_name_or_path")
        return {"model": named} if isinstance(named, str) and named else {}
    recipe, _ = parse(opened.manifest.recipe, f"the recipe in {opened.path}")
    data = recipe.get("data", {}) if isinstance(recipe, dict) else {}
    kept = {f"data.{key}": value for key, value in data.items() if key not in ("train", "eval") and value is not None}
    return {"model": opened.manifest.base.name, **kept}


def running_text(recipe: Recipe) -> str | None:
    """The text of a plain text file that is scored as a whole: no choices, and a prompt that nobody wrote."""
    path = recipe.data.eval
    asked = "prompt" in recipe.data.model_fields_set or "answer" in recipe.data.model_fields_set
    if path is None or recipe.data.choices or asked or not path.endswith(".txt"):
        return None
    return prepare.read_text(path, "data.eval")


def load_with(recipe: Recipe, opened: AdapterFile | None, force: bool, say: Callable[[str], None]) -> Base:
    """The base with the adapter attached.

    Raises:
        AdapterError: the adapter was made on another base, and `force` does not insist.
    """
    from ctxtune.adapter.attach import attach
    from ctxtune.adapter.read import check_base
    from ctxtune.backend.fingerprint import fingerprint
    from ctxtune.backend.folder import resolve_model
    from ctxtune.backend.load import load_base

    folder = resolve_model(recipe.model)
    if opened is not None and (warning := check_base(opened, fingerprint(folder), force)):
        say(warning)
    base = load_base(folder, recipe.device)
    say(f"device: {base.device.reason}")
    if opened is not None:
        attach(base.model, opened)
    return base


def _score(base: Base, rows: prepare.Source | None, spec: EncodeSpec) -> dict[str, float]:
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.judge import Judge

    with Trunk(base) as trunk:
        judge = Judge.make(trunk, rows, spec, None)
        scores = judge.choose()
        assert judge.choices is not None
        return {**scores, "dropped": judge.choices.dropped, "truncated": judge.choices.truncated}


def _perplexity(base: Base, text: str, max_length: int) -> dict[str, float]:
    from ctxtune.backend.trunk import Trunk
    from ctxtune.data.encode import encode_text_windows
    from ctxtune.errors import ModelError
    from ctxtune.evals.choice import Requests
    from ctxtune.evals.perplexity import text_metrics

    if base.anatomy.kind != "causal":
        raise ModelError(
            f"a {base.anatomy.family} model has no perplexity of running text", "score answers: --prompt, --answer"
        )
    windows = encode_text_windows(base.tokenizer, text, max_length)
    with Trunk(base) as trunk:
        total = sum(ll for ll, _ in Requests(trunk, windows.windows).loglikelihoods())
    return text_metrics(total, windows.words, windows.num_bytes, windows.tokens)
