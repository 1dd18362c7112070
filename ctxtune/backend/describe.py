"""What a model is, from its headers alone: config.json and safetensors headers, or the header of a .gguf file.

No torch, but for a family that is not in the table: its modules are built, without numbers, to see whether it can be used.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.backend.anatomy import FAMILIES, anatomy_of
from ctxtune.backend.bits import stored_as, stored_bytes
from ctxtune.backend.catalogue import CATALOGUE
from ctxtune.backend.context import context_length, text_part
from ctxtune.backend.folder import INDEX, NOTE, WEIGHTS, check_folder, folder_bytes, is_gguf, read_json, weight_files
from ctxtune.backend.gguf import ARCHITECTURES, check_gguf
from ctxtune.backend.gguf_header import Items, read_gguf_header
from ctxtune.backend.home import models
from ctxtune.backend.tensors import read_header
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.gguf_header import GGUFHeader

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""name of a tensor -> its stored type and its shape"""
NO_PARAMETERS = ("I8", "I16", "I32", "I64", "U8", "BOOL")
"""stored types of buffers, such as position numbers"""
LAST = 4


@dataclass(frozen=True)
class Described:
    """A model as its headers tell it; None is what they do not say. `supported` begins with "yes", or is the reason why not."""

    place: Path
    family: str
    supported: str
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
    memory: dict[str, int]
    training_extra: int | None
    chat_template: bool
    licence: str | None


def describe(place: Path) -> Described:
    """The facts of a model folder or a .gguf file.

    Raises:
        ModelError: it cannot be read, or its headers are broken.
    """
    return _describe_gguf(place) if is_gguf(place) and place.is_file() else _describe_folder(place)


def _describe_folder(folder: Path) -> Described:
    if not (folder / "config.json").is_file():
        check_folder(folder)
    config = read_json(folder / "config.json")
    shapes: Shapes = {}
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        for path in weight_files(folder):
            shapes |= {name: (info.dtype, info.shape) for name, info in read_header(path).tensors.items()}
    family = str(config.get("model_type", "unknown"))
    text = text_part(config)
    heads = _number(text, "num_attention_heads", "n_head")
    architectures = config.get("architectures")
    supported, row = _supported(folder, family, shapes)
    return Described(
        place=folder,
        family=family,
        supported=supported,
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else None,
        layers=_number(text, "num_hidden_layers", "n_layer"),
        width=_number(text, "hidden_size", "n_embd"),
        heads=heads,
        kv_heads=_number(text, "num_key_value_heads") or heads,
        vocabulary=_number(text, "vocab_size"),
        context=context_length(config) if _number(text, "max_position_embeddings", "n_positions") else None,
        tied_embeddings=not any(name.endswith(("lm_head.weight", "decoder.weight")) for name in shapes),
        parameters=sum(math.prod(shape) for _, shape in shapes.values()),
        stored_types=_types(shapes),
        num_bytes=folder_bytes(folder),
        **_memory(shapes, [row.blocks, row.blocks.removeprefix(f"{row.backbone}.")] if row else []),
        chat_template=_has_chat_template(folder),
        licence=_licence(folder),
    )


def _describe_gguf(path: Path) -> Described:
    header = read_gguf_header(path)
    shapes = {name: (info.dtype, info.shape) for name, info in header.tensors.items()}
    number = _gguf_numbers(header)
    embeddings = header.tensors.get("token_embd.weight")
    tokens = header.keys.get("tokenizer.ggml.tokens")
    licence = header.keys.get("general.license")
    heads = number("attention.head_count")
    family = ARCHITECTURES.get(header.architecture, header.architecture)
    return Described(
        place=path,
        family=family[:80],
        supported=_supported_gguf(path),
        architecture=header.architecture[:80],
        layers=number("block_count"),
        width=number("embedding_length"),
        heads=heads,
        kv_heads=number("attention.head_count_kv") or heads,
        vocabulary=embeddings.shape[0] if embeddings else tokens.count if isinstance(tokens, Items) else None,
        context=number("context_length"),
        tied_embeddings="output.weight" not in shapes,
        parameters=sum(info.numel for info in header.tensors.values()),
        stored_types=_types(shapes),
        num_bytes=header.file_size,
        **_memory(shapes, ["blk"] if family in FAMILIES else []),
        chat_template=isinstance(header.keys.get("tokenizer.chat_template"), str),
        licence=licence[:80] if isinstance(licence, str) else None,
    )


def _gguf_numbers(header: GGUFHeader) -> Callable[[str], int | None]:
    def number(name: str) -> int | None:
        value = header.keys.get(f"{header.architecture}.{name}")
        return value if type(value) is int else None

    return number


def _number(config: Mapping[str, Any], *keys: str) -> int | None:
    return next((config[key] for key in keys if type(config.get(key)) is int), None)


def _supported(folder: Path, family: str, shapes: Shapes) -> tuple[str, Anatomy | None]:
    """Whether the model can be adapted, or why not; and its anatomy, for which a family outside the table is looked into."""
    row = FAMILIES.get(family)
    try:
        check_folder(folder)
        if row is None:
            from ctxtune.backend.config import read_config

            row = read_config(folder)[1]
        else:
            anatomy_of(family)
        _check_head(row, shapes)
    except ModelError as error:
        return f"no: {error}", row
    if row.is_headless(shapes):
        return "yes, to choose: without the head that fills a mask, it learns a classifier over data.choices", row
    return "yes, found by structure, checked when it is loaded" if row.derived else "yes", row


def _supported_gguf(path: Path) -> str:
    try:
        check_gguf(path)
    except ModelError as error:
        return f"no: {error}"
    return "yes"


def _check_head(anatomy: Anatomy, shapes: Shapes) -> None:
    """An encoder that was stored without the head that fills a mask has no answers to score, unless a classifier is made."""
    headless = anatomy.kind == "masked" and not any(map(anatomy.in_head, shapes))
    if headless and not anatomy.classifier:
        raise ModelError("the files hold an encoder without the head that fills a mask")


def _types(shapes: Shapes) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for dtype, shape in shapes.values():
        counts[dtype] += math.prod(shape)
    return dict(counts)


def _memory(shapes: Shapes, blocks: list[str]) -> dict[str, Any]:
    """Bytes of the weights at each precision, and what training the last layers adds: gradients and AdamW's two moments.

    Quantised are the matrices of the blocks (bits.py); the rest is float32. `blocks` are the names under which the list of
    blocks may stand; an unknown family has none.
    """
    kept = {name: shape for name, (dtype, shape) in shapes.items() if dtype not in NO_PARAMETERS}
    total = sum(map(math.prod, kept.values()))
    memory = {"fp32": 4 * total, "bf16": 2 * total}
    inside = dict(_inside(kept, blocks))
    if not inside:
        return {"memory": memory, "training_extra": None}
    matrices = {name.rpartition(".")[0]: kept[name] for name in inside if len(kept[name]) == 2}
    rest = 4 * (total - sum(map(math.prod, matrices.values())))
    for quant in ("int8", "nf4"):
        memory[quant] = rest + sum(
            stored_bytes(math.prod(shape), shape[0], stored_as(name, quant)) for name, shape in matrices.items()
        )
    last = max(inside.values()) - LAST
    return {
        "memory": memory,
        "training_extra": 12 * sum(math.prod(kept[name]) for name, block in inside.items() if block > last),
    }


def _inside(names: Mapping[str, object], blocks: list[str]) -> Iterator[tuple[str, int]]:
    """The tensors inside a block, with its number."""
    if not blocks:
        return
    pattern = re.compile(f"(?:{'|'.join(map(re.escape, blocks))})\\.([0-9]{{1,6}})\\.")
    for name in names:
        if match := pattern.match(name):
            yield name, int(match[1])


def _licence(folder: Path) -> str | None:
    """As it was noted when ctxtune made the folder, or as the model card says at its top; others do not say."""
    if (folder / NOTE).is_file():
        licence = read_json(folder / NOTE).get("licence")
        return licence[:80] if isinstance(licence, str) else None
    if folder.parent == models(make=False).resolve() and folder.name in CATALOGUE:
        return CATALOGUE[folder.name].licence
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open(encoding="utf-8", errors="replace") as file:
        top = file.read(1 << 16).partition("\n---")[0]
    match = re.search(r"^license:\s*(\S[^\n]{0,79})$", top, re.MULTILINE) if top.startswith("---") else None
    return match[1].strip() if match else None


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(read_json(config).get("chat_template"))
