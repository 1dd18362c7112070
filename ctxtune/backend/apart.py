"""Several examples in one row of tokens, told to a model so that none sees another.

A token attends to the tokens of its own example alone, and its position is counted from the example's start. Most causal
models of transformers need to be told the positions only: where these start anew they make block-diagonal masks, one for
each type of layer, a sliding window's bound included (`masking_utils.find_packed_sequence_indices`). The others take the
mask itself. Shapes: B rows, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ctxtune.backend.load import Base


def keep_apart(base: Base, ids: Tensor, owner: Tensor, order: Tensor) -> tuple[Tensor | None, Tensor]:
    """The mask (B, 1, T, T), or None where the model makes it, and the positions (B, T) to call a model with.

    `owner` (B, T) is the example of each token, -1 for pads; `order` (B, T) its number in the example.
    """
    anatomy, config = base.anatomy, cast("Any", base.model.config)
    positions = _behind_pad(ids, order, config.pad_token_id) if anatomy.counts_pads else order
    if anatomy.apart == "positions":
        return None, positions
    mask = owner[:, :, None] == owner[:, None, :]  # pads see pads: a token that sees nothing has no softmax
    if anatomy.kind == "causal":
        mask = mask.tril()
    return mask[:, None], positions


def _behind_pad(ids: Tensor, order: Tensor, pad: int) -> Tensor:
    """RoBERTa's positions: those that are no pads are counted from `pad` + 1 on, within each example."""
    real = (ids != pad).long()
    count = real.cumsum(1)
    before = torch.cat([torch.zeros_like(count[:, :1]), count], dim=1)
    start = (
        torch.arange(ids.shape[1], device=ids.device) - order
    )  # (B, T): the column in which a token's example begins
    return pad + (count - before.gather(1, start)) * real
