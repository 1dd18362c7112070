"""LORA as PEFT stores it: W + scale * B A (Hu et al. 2021), read from names, shapes and configuration without torch.

    base_model.model.<module>.lora_A.weight  [r, in]      .lora_B.weight  [out, r]        linear layers
    base_model.model.<module>.lora_embedding_A [r, V]     .lora_embedding_B [D, r]        embeddings
    base_model.model.<module>.<parameter>                                                 modules_to_save, biases

scale = alpha / r, or alpha / sqrt(r) for rsLoRA; alpha and r can differ by module (alpha_pattern, rank_pattern).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.container import PREFIX
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ctxtune.adapter.read import AdapterFile

PAIRS = {".lora_A.weight": ".lora_B.weight", ".lora_embedding_A": ".lora_embedding_B"}
VARIANTS = (
    "use_dora", "lora_bias", "layer_replication", "target_parameters", "trainable_token_indices", "use_qalora",
    "alora_invocation_tokens", "arrow_config", "use_bdlora", "kasa_config", "monteclora_config", "ensure_weight_tying",
)  # fmt: skip
"""configuration keys that make it another computation than W + scale * B A on the named modules"""
PLAIN_STARTS = {"gaussian", "eva", "orthogonal", "mica"}
"""initialisations that leave the base as it was; the others (PiSSA, OLoRA, ...) change the base under the adapter"""


@dataclass(frozen=True)
class LowRank:
    """One adapted module: `a` and `b` are tensor names."""

    module: str
    a: str
    b: str
    scale: float
    embedding: bool


def lora_config(
    ranks: Mapping[str, int], modules: Iterable[str], biases: bool, turned: bool, base_name: str, causal: bool
) -> dict[str, Any]:
    """adapter_config.json of pairs with scale 1: module -> rank, all named in full; `modules` are whole beside them.

    `biases` says whether some are whole too, `turned` whether some layers store their weight (in, out).
    """
    usual, _ = Counter(ranks.values()).most_common(1)[0]
    others = {re.escape(module): rank for module, rank in ranks.items() if rank != usual}
    return {
        "alpha_pattern": others,
        "auto_mapping": None,
        "base_model_name_or_path": base_name,
        "bias": "all" if biases else "none",
        "fan_in_fan_out": turned,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": usual,
        "lora_dropout": 0.0,
        "modules_to_save": sorted(modules) or None,
        "peft_type": "LORA",
        "r": usual,
        "rank_pattern": others,
        "revision": None,
        "target_modules": sorted(ranks),
        "task_type": "CAUSAL_LM" if causal else None,
    }


def parts(adapter: AdapterFile) -> tuple[list[LowRank], dict[str, tuple[str, str]]]:
    """The low-rank pairs, and the whole parameters beside them: tensor name -> (module, parameter).

    Raises:
        AdapterError: a variant of LoRA that is not W + scale * B A, or a tensor without its partner.
    """
    config = adapter.config
    if config is None:
        raise AdapterError(f"{adapter.path}: lora_alpha stands in adapter_config.json, which is not beside it")
    _refuse_variants(adapter, config)
    tensors = adapter.header.tensors
    pairs, whole = [], {}
    for name in tensors:
        if not name.startswith(PREFIX):
            raise AdapterError(f"{adapter.path}: tensor {name!r} is not named as PEFT names tensors")
        suffix = next((end for pair in PAIRS.items() for end in pair if name.endswith(end)), None)
        if suffix in PAIRS:
            pairs.append(_pair(adapter, config, name, suffix))
        elif suffix is None:
            whole[name] = _parameter(adapter, name)
        elif name.removesuffix(suffix) + {b: a for a, b in PAIRS.items()}[suffix] not in tensors:
            raise AdapterError(f"{adapter.path}: tensor {name!r} stands without its lora_A")
    return pairs, whole


def _refuse_variants(adapter: AdapterFile, config: dict[str, Any]) -> None:
    for key in VARIANTS:
        if config.get(key):
            raise AdapterError(f"{adapter.path}: LoRA with {key} is not supported")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in PLAIN_STARTS:
        raise AdapterError(
            f"{adapter.path}: LoRA with init_lora_weights {start!r} belongs to a base that it changed",
            "save it converted to plain LoRA (path_initial_model_for_weight_conversion in PEFT)",
        )


def _parameter(adapter: AdapterFile, name: str) -> tuple[str, str]:
    """A whole parameter; PEFT keeps those of wrapped modules under `base_layer`."""
    strange = re.search(r"\.(lora_\w+|token_adapter|trainable_tokens_\w+)", name)
    if strange:
        raise AdapterError(f"{adapter.path}: tensor {name!r}: {strange[1]} is not supported")
    module, _, parameter = name.removeprefix(PREFIX).replace(".base_layer.", ".").rpartition(".")
    return module, parameter


def _pair(adapter: AdapterFile, config: dict[str, Any], a: str, suffix: str) -> LowRank:
    tensors = adapter.header.tensors
    module = a.removeprefix(PREFIX).removesuffix(suffix)
    b = a.removesuffix(suffix) + PAIRS[suffix]
    if b not in tensors:
        raise AdapterError(f"{adapter.path}: tensor {a!r} stands without its lora_B")
    shape_a, shape_b = tensors[a].shape, tensors[b].shape
    if len(shape_a) != 2 or len(shape_b) != 2 or shape_a[0] != shape_b[1] or not shape_a[0]:
        raise AdapterError(f"{adapter.path}: tensors {a!r} {list(shape_a)} and {b!r} {list(shape_b)} do not fit")
    rank = _by_module(adapter, config, "rank_pattern", module, config.get("r"))
    if rank != shape_a[0]:
        raise AdapterError(f"{adapter.path}: tensor {a!r} has rank {shape_a[0]}, adapter_config.json says {rank!r}")
    alpha = _by_module(adapter, config, "alpha_pattern", module, config.get("lora_alpha"))
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise AdapterError(f"{adapter.path}: lora_alpha of {module} is {alpha!r}")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LowRank(module, a, b, scale, suffix == ".lora_embedding_A")


def _by_module(adapter: AdapterFile, config: dict[str, Any], key: str, module: str, default: Any) -> Any:
    """The first pattern that matches the end of the module's name, as `peft.utils.get_pattern_key` decides."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise AdapterError(f"{adapter.path}: {key} must be an object")
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise AdapterError(f"{adapter.path}: {key} holds {pattern!r}, which is no pattern: {error}") from error
    return default
