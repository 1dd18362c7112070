"""Heads of queries that read the same keys, as more queries of one head: keys and values are never copied for them.

Where G heads of keys serve H heads of queries, transformers repeats keys and values H / G times for torch's attention, and the
backward pass adds the gradients of all repetitions up again. T queries of H heads are as well H / G x T queries of G heads.

Shapes: B texts, T tokens that look, S that are looked at; H heads of queries, G of keys, d numbers each.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ctxtune.backend.merged import MORE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


@contextmanager
def grouped() -> Iterator[None]:
    """Meanwhile attention behind a mask is computed so, where heads share keys; all else as ever."""
    ALL_ATTENTION_FUNCTIONS["sdpa"] = _attend
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    (batch, heads, tokens, width), groups = query.shape, key.shape[1]
    each = heads // groups
    if mask is None or each == 1 or options.get("dropout") or any(options.get(name) is not None for name in MORE):
        told: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **options)
        return told
    folded = query.reshape(batch, groups, each * tokens, width)
    seen = mask[..., : key.shape[2]].expand(-1, -1, tokens, -1).repeat(1, 1, each, 1)  # (B, 1, H / G x T, S)
    said = functional.scaled_dot_product_attention(folded, key, value, attn_mask=seen, scale=scaling)
    return said.reshape(batch, heads, tokens, -1).transpose(1, 2).contiguous(), None
