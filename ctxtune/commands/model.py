"""Base models: list those that can be pulled, show a folder. Both read headers only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxtune.backend.catalogue import CATALOGUE
from ctxtune.backend.folder import folder_bytes, is_complete, read_json, resolve_model, weight_files
from ctxtune.backend.home import models
from ctxtune.backend.tensors import read_header

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class ListedModel:
    """One row of `model list`; `folder` and `num_bytes` are None until the model is pulled."""

    name: str
    family: str
    parameters: int
    licence: str
    source: str
    folder: Path | None
    num_bytes: int | None


@dataclass(frozen=True)
class ShownModel:
    """What the headers of a model folder tell."""

    folder: Path
    family: str
    architecture: str | None
    layers: int | None
    width: int | None
    heads: int | None
    kv_heads: int | None
    vocabulary: int | None
    context: int | None
    tied_embeddings: bool
    parameters: int
    stored_types: dict[str, int]
    num_bytes: int
    chat_template: bool
    licence: str | None
    fingerprint: str | None


def list_models() -> list[ListedModel]:
    """Every model of the catalogue, and which of them are on this machine."""
    rows = []
    for entry in CATALOGUE.values():
        folder = models() / entry.name
        there = is_complete(folder)
        rows.append(
            ListedModel(
                name=entry.name,
                family=entry.family,
                parameters=entry.parameters,
                licence=entry.licence,
                source=" + ".join(entry.origins),
                folder=folder if there else None,
                num_bytes=folder_bytes(folder) if there else None,
            )
        )
    return rows


def show(model: str) -> ShownModel:
    """The facts of one model folder, from config.json and the tensor headers."""
    from ctxtune.backend.fingerprint import cached_fingerprint

    folder = resolve_model(model)
    config = read_json(folder / "config.json")

    def number(*keys: str) -> int | None:
        return next((config[key] for key in keys if type(config.get(key)) is int), None)

    tensors = {name: info for path in weight_files(folder) for name, info in read_header(path).tensors.items()}
    stored_types: Counter[str] = Counter()
    for info in tensors.values():
        stored_types[info.dtype] += info.numel
    heads = number("num_attention_heads", "n_head")
    architectures = config.get("architectures")
    return ShownModel(
        folder=folder,
        family=str(config.get("model_type", "unknown")),
        architecture=architectures[0] if isinstance(architectures, list) and architectures else None,
        layers=number("num_hidden_layers", "n_layer"),
        width=number("hidden_size", "n_embd"),
        heads=heads,
        kv_heads=number("num_key_value_heads") or heads,
        vocabulary=number("vocab_size"),
        context=number("max_position_embeddings", "n_positions"),
        tied_embeddings=not any(name.endswith(("lm_head.weight", "decoder.weight")) for name in tensors),
        parameters=sum(stored_types.values()),
        stored_types=dict(stored_types),
        num_bytes=folder_bytes(folder),
        chat_template=_has_chat_template(folder),
        licence=_licence(folder),
        fingerprint=cached_fingerprint(folder),
    )


def _licence(folder: Path) -> str | None:
    """Known for what was pulled; other folders do not say."""
    pulled = folder.parent == models().resolve() and folder.name in CATALOGUE
    return CATALOGUE[folder.name].licence if pulled else None


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(read_json(config).get("chat_template"))
