"""Those tokens of a long prefix at which questions look, kept as a short one: of every layer its own.

Of all tokens, as the model has read them one behind another, a layer keeps the keys and values of those that get most attention
from the last tokens of some questions, where the answer begins, summed over heads and questions (SnapKV, Li et al. 2024; in
demonstrations these are the labels and what begins the text: Wang et al. 2023, "Label Words are Anchors"). They keep their
distance from what follows: keys that are rotated by position are read again as many positions nearer to it as tokens go. Where
positions are learned vectors, and keys hold them, they stay where they were.

Shapes: P tokens of the long prefix, H heads of keys, d numbers each.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ctxtune.backend.prefix import going_on, read_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from ctxtune.backend.prefix import Layers
    from ctxtune.backend.trunk import Trunk


def read_attended(trunk: Trunk, tokens: Sequence[int], questions: Sequence[Sequence[int]], count: int) -> Layers | None:
    """Keys and values (1, H, count, d) of every layer; None of a model that does not show its attention."""
    looks = _looks(trunk, tokens, questions)
    if looks is None:
        return None
    config: Any = trunk.base.model.config
    rotates = getattr(config.get_text_config(), "rope_parameters", None) is not None
    near = read_prefix(trunk, tokens, "off", "", first=count - len(tokens) if rotates else 0)
    kept = []
    for (keys, values), look in zip(near.layers, looks, strict=True):
        places = look.topk(count).indices.sort().values
        kept.append((keys[:, :, places], values[:, :, places]))
    return kept


def _looks(trunk: Trunk, tokens: Sequence[int], questions: Sequence[Sequence[int]]) -> list[Tensor] | None:
    """Of every layer how much attention each token gets from the last tokens of the questions (P,)."""
    prefix = read_prefix(trunk, tokens, "off", "")
    total: list[Tensor] | None = None
    for question in questions:
        ids = torch.tensor([list(question)], device=trunk.base.device.name)
        with trunk.closed(), torch.no_grad(), _noting(len(tokens)) as noted:
            trunk.backbone(input_ids=ids, use_cache=True, **going_on(trunk, prefix, torch.ones_like(ids)))
        if len(noted) != len(prefix.layers):
            return None
        total = noted if total is None else [a + b for a, b in zip(total, noted, strict=True)]
    return total


@contextmanager
def _noting(count: int) -> Iterator[list[Tensor]]:
    """Meanwhile each layer's attention notes how much of the last token's goes to the first `count` keys, over all heads."""
    noted: list[Tensor] = []

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        (_, heads, _, width), groups = query.shape, key.shape[1]
        last = query[0, :, -1].reshape(groups, heads // groups, width).float()
        scores = last @ key[0].float().transpose(1, 2) * (width**-0.5 if scaling is None else scaling)
        if mask is not None:
            row = mask[0, :, -1:, : key.shape[2]]
            scores = scores.masked_fill(~row, -torch.inf) if row.dtype is torch.bool else scores + row
        noted.append(scores.softmax(-1).sum((0, 1))[:count])
        told: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **options)
        return told

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend
    try:
        yield noted
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
