"""PREFIX_TUNING, PEFT's container of keys and values that stand before every text (Li and Liang 2021).

    prompt_embeddings  [n, 2 L H d]        a token a row: k_0 v_0 k_1 v_1 ... of all layers, keys after rotation

Of demonstrations they are what the model makes of them: the few-shot prompt, with nothing left to be read. Learned, they are
virtual tokens, and so are the vectors of PROMPT_TUNING, which stand in the place of embedded tokens (Lester et al. 2021):

    prompt_embeddings  [n, D]

Shapes: n tokens, L layers, H heads of keys and values, d numbers of each, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctxtune.adapter.manifest import Shown
    from ctxtune.adapter.read import AdapterFile

ROWS = "prompt_embeddings"
CONTAINER = "PREFIX_TUNING"
VECTORS = "PROMPT_TUNING"
ENCODED = "P_TUNING"
CONTAINERS = (CONTAINER, VECTORS, ENCODED)
SUFFIX = "SUFFIX"
"""ctxtune's own, PEFT has no vectors behind the input"""
HELD = (*CONTAINERS, SUFFIX)
"""what stands at a text, and changes no number of the model"""


def prefix_config(layout: Layout, base_name: str) -> dict[str, Any]:
    """adapter_config.json of a prefix."""
    width = layout.heads * layout.dim
    own = {"encoder_hidden_size": width, "peft_type": CONTAINER, "prefix_projection": False}
    return {**_config(layout, width, base_name), **own}


def vectors_config(layout: Layout, base_name: str) -> dict[str, Any]:
    """adapter_config.json of vectors before the input."""
    return {**_config(layout, layout.dim, base_name), "peft_type": VECTORS, "prompt_tuning_init": "RANDOM"}


def encoder_config(layout: Layout, base_name: str) -> dict[str, Any]:
    """adapter_config.json of vectors that an encoder has made, which PEFT leaves out of the file as well."""
    own = {"encoder_hidden_size": layout.dim, "encoder_reparameterization_type": "MLP", "peft_type": ENCODED}
    return {**_config(layout, layout.dim, base_name), **own}


def config_of(container: str, layout: Layout, base_name: str) -> dict[str, Any]:
    """adapter_config.json of one of PEFT's containers."""
    made = {CONTAINER: prefix_config, VECTORS: vectors_config, ENCODED: encoder_config}[container]
    return made(layout, base_name)


def _config(layout: Layout, width: int, base_name: str) -> dict[str, Any]:
    return {
        "auto_mapping": None,
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "num_attention_heads": layout.heads,
        "num_layers": layout.layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": layout.tokens,
        "revision": None,
        "task_type": "CAUSAL_LM",
        "token_dim": width,
    }


@dataclass(frozen=True)
class Layout:
    """The sizes of a prefix: n, L, H and d; of vectors d is D."""

    tokens: int
    layers: int
    heads: int
    dim: int


def is_prefix(tensors: Iterable[str]) -> bool:
    """Whether tensors are named as those of a prefix."""
    return set(tensors) == {ROWS}


def shown(adapter: AdapterFile) -> Shown | None:
    """The demonstrations that an adapter holds; None of one that changes the model instead.

    Raises:
        AdapterError: it holds keys and values of nobody knows what.
    """
    if adapter.container not in HELD:
        return None
    if adapter.manifest is None or adapter.manifest.shown is None:
        raise AdapterError(
            f"{adapter.path}: a prefix that does not say which tokens it stands for is not supported",
            "types that work: LN_TUNING, LORA, and prefixes that ctxtune wrote",
        )
    return adapter.manifest.shown


def layout_of(adapter: AdapterFile) -> Layout:
    """The sizes of an adapter's prefix, which the tensor, the manifest and the configuration agree on.

    Raises:
        AdapterError: they do not.
    """
    told, name = shown(adapter), f"{adapter.path}: tensor {ROWS!r}"
    assert told is not None
    tokens, columns = _shape(adapter, name)
    parts = 2 * told.layers * told.heads if adapter.container == CONTAINER else 1
    if told.layers < 1 or told.heads < 1 or columns % parts:
        raise AdapterError(f"{name} has {columns:,} columns, which are not 2 x {told.layers} x {told.heads} x d")
    if len(told.tokens) != tokens:
        raise AdapterError(f"{name} has {tokens:,} rows, the manifest lists {len(told.tokens):,} tokens")
    if len(told.texts) != len(told.where):
        raise AdapterError(f"{adapter.path}: {len(told.texts)} demonstrations come from {len(told.where)} places")
    layout = Layout(tokens, told.layers, told.heads, columns // parts)
    _check_config(adapter, layout)
    return layout


def _shape(adapter: AdapterFile, name: str) -> tuple[int, int]:
    if not is_prefix(adapter.header.tensors):
        raise AdapterError(f"{adapter.path}: a prefix is the one tensor {ROWS!r}, this file holds others")
    info = adapter.header.tensors[ROWS]
    if info.dtype not in ("F64", "F32", "BF16", "F16"):
        raise AdapterError(f"{name} is of type {info.dtype}, keys and values are floats")
    if len(info.shape) != 2 or not info.numel:
        raise AdapterError(f"{name} has shape {list(info.shape)}, a prefix has a row a token")
    return info.shape[0], info.shape[1]


def _check_config(adapter: AdapterFile, layout: Layout) -> None:
    if adapter.config is None:
        return
    wanted = config_of(adapter.container, layout, "")
    keys = ["num_virtual_tokens", "num_layers", "token_dim", "num_attention_heads"]
    for key in keys + ["prefix_projection"] * ("prefix_projection" in wanted):
        said = adapter.config.get(key)
        if said != wanted[key]:
            raise AdapterError(f"{adapter.path}: adapter_config.json says {key} {said!r}, the file {wanted[key]!r}")
