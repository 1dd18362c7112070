"""Attention with heads of queries folded together, against transformers' own: states, gradients, and what is left to it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ctxtune.backend import grouped as file
from ctxtune.backend.grouped import grouped

from .test_prefix import CAUSAL_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ctxtune.backend.load import Base


def said(base: Base, vectors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of texts behind a mask, and the gradient of a sum of them for what is embedded."""
    vectors = vectors.clone().requires_grad_()
    options = {"position_ids": torch.arange(vectors.shape[1]).expand(len(vectors), -1)}
    known = inspect.signature(base.model.forward).parameters
    options = {name: value for name, value in options.items() if name in known}
    logits = base.model(inputs_embeds=vectors, attention_mask=mask, **options).logits
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    assert vectors.grad is not None
    return logits.detach(), vectors.grad


@pytest.mark.parametrize("kind", CAUSAL_KINDS)
def test_as_transformers_computes_it(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    base.model.double()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [9, 8, 7, 6, 5, 0, 0, 0]])
    vectors = base.model.get_input_embeddings()(ids).detach()
    seen = torch.ones(8, 8, dtype=torch.bool).tril()[None, None].repeat(2, 1, 1, 1)
    seen[1, :, :, 5:] = torch.eye(8, dtype=torch.bool)[:, 5:]
    plain = said(base, vectors, seen)
    with grouped():
        found = said(base, vectors, seen)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_heads_that_share_keys_are_folded(open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mask; without one, transformers' own takes its fastest path."""
    base, queries = open_base("llama-tied"), []
    heads, groups = base.model.config.num_attention_heads, base.model.config.num_key_value_heads
    assert heads > groups
    attention = file.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        file.functional,
        "scaled_dot_product_attention",
        lambda query, *rest, **more: (queries.append(tuple(query.shape[1:3])), attention(query, *rest, **more))[1],
    )
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), grouped():
        base.model(input_ids=ids, attention_mask=torch.ones(4, 4, dtype=torch.bool).tril()[None, None])
        folded = len(queries)
        base.model(input_ids=ids)
    assert set(queries[:folded]) == {(groups, 4 * heads // groups)}
    assert set(queries[folded:]) <= {(heads, 4)}
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not file._attend
