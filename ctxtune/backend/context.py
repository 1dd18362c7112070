"""How many tokens a model can read, told by its configuration.

Two families make it less than the number that stands there: RoBERTa counts positions from behind its pad token, and
scaled rotations (longrope) change for a whole batch once its longest text is longer than what the model was first trained
on, so that the numbers of a short text would depend on its neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")
_BEHIND_PAD = {
    "roberta",
    "xlm-roberta",
    "camembert",
    "data2vec-text",
    "mpnet",
    "roberta-prelayernorm",
    "xlm-roberta-xl",
}
_DEFAULT = 2048


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that speaks of text: models that also see images nest it."""
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else config


def context_length(config: Mapping[str, Any]) -> int:
    """The tokens that a model of this config can read."""
    config = text_part(config)
    length = next((value for value in map(config.get, _KEYS) if type(value) is int and value > 0), _DEFAULT)
    if config.get("model_type") in _BEHIND_PAD:
        length -= _whole(config.get("pad_token_id"), 1) + 1
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if isinstance(rope, dict) and rope.get("rope_type", rope.get("type")) in ("longrope", "su"):
        first = rope.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
        length = min(length, _whole(first, length))
    return max(1, length)


def _whole(value: Any, default: int) -> int:
    return value if type(value) is int and value >= 0 else default
