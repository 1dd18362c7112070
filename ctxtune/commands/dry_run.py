"""What a run would cost, before it starts: read from the rows, the tokenizer and the headers of the weights alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ctxtune.backend.anatomy import anatomy_of
from ctxtune.backend.folder import read_json, weight_files
from ctxtune.backend.tensors import read_header
from ctxtune.commands import prepare
from ctxtune.commands.sources import default_out, num_steps, read_sources
from ctxtune.errors import ModelError
from ctxtune.methods import freeze

if TYPE_CHECKING:
    from pathlib import Path

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.recipe.load import Resolved


def dry_run(resolved: Resolved) -> dict[str, Any]:
    """Check everything that can be checked without the weights; returns counts and bytes.

    Raises:
        CtxtuneError: whatever the run itself would meet before it begins to train.
    """
    from ctxtune.backend.load import context_length, load_tokenizer

    recipe = resolved.recipe
    sources = read_sources(recipe)
    config = read_json(sources.model / "config.json")
    anatomy = anatomy_of(str(config.get("model_type")))
    shapes = parameter_shapes(sources.model, anatomy, config)
    num_layers = count_layers(shapes, anatomy)
    chosen = freeze.choose(recipe.method.layers, list(shapes), anatomy, num_layers)
    spec = prepare.encoder(
        recipe.data, sources.templates, load_tokenizer(sources.model), anatomy, context_length(config)
    )
    examples = prepare.to_learn(sources.train, spec)
    tied = {name for name in chosen.names if is_tied_copy(name, shapes, anatomy, config)}
    stored = _stored_names(chosen.names, shapes, anatomy, config)
    width = int(config.get("hidden_size") or config["n_embd"])
    return {
        "model": recipe.model,
        "method": recipe.method.model_dump(),
        "out": recipe.out or default_out(recipe),
        "trainable": sum(math.prod(shapes[name]) for name in chosen.names if name not in tied),
        "parameters": sum(
            math.prod(shape) for name, shape in shapes.items() if not is_tied_copy(name, shapes, anatomy, config)
        ),
        "adapter_tensors": len(stored),
        "adapter_tensor_bytes": sum(math.prod(shapes[name]) * 4 for name in stored),
        "rows": len(examples.examples),
        "dropped": examples.dropped,
        "truncated": examples.truncated,
        "tokens": examples.tokens,
        "supervised_tokens": examples.supervised_tokens,
        "steps": num_steps(recipe, len(examples.examples)),
        "start_layer": chosen.start,
        "cache_bytes": examples.tokens * width * 4 if chosen.start > 0 and recipe.cache != "off" else 0,
    }


def parameter_shapes(folder: Path, anatomy: Anatomy, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter as the loaded model names them, a tied head under its own name too."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        shapes.update({name: info.shape for name, info in read_header(path).tensors.items()})
    first = next((name for name in shapes if anatomy.blocks.split(".", 1)[-1] in name), "")
    if not first.startswith(anatomy.backbone):
        # Files of the bare backbone leave its own name out.
        shapes = {f"{anatomy.backbone}.{name}": shape for name, shape in shapes.items()}
    for copy, original in anatomy.tied.items():
        if config.get("tie_word_embeddings", True) and copy not in shapes and original in shapes:
            shapes[copy] = shapes[original]
    return shapes


def count_layers(shapes: dict[str, tuple[int, ...]], anatomy: Anatomy) -> int:
    """How many blocks the files hold.

    Raises:
        ModelError: none at all.
    """
    prefix = f"{anatomy.blocks}."
    found = {int(name[len(prefix) :].split(".", 1)[0]) for name in shapes if name.startswith(prefix)}
    if not found:
        raise ModelError(f"the weights hold no {anatomy.blocks}", "the folder's config.json names another family")
    return max(found) + 1


def is_tied_copy(name: str, shapes: dict[str, tuple[int, ...]], anatomy: Anatomy, config: dict[str, Any]) -> bool:
    """Whether a name is a second one of a tensor that is counted under its first."""
    original = anatomy.tied.get(name)
    return bool(config.get("tie_word_embeddings", True)) and original in shapes


def _stored_names(
    names: tuple[str, ...], shapes: dict[str, tuple[int, ...]], anatomy: Anatomy, config: dict[str, Any]
) -> set[str]:
    """Whole modules are stored, tied ones under each of their names."""
    stored = set(names)
    for copy, original in anatomy.tied.items():
        if is_tied_copy(copy, shapes, anatomy, config) and stored & {copy, original}:
            stored |= {copy, original}
    modules = {name.rpartition(".")[0] for name in stored}
    return {name for name in shapes if name.rpartition(".")[0] in modules and name not in anatomy.loose}
