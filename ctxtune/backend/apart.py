"""Several examples, or several branches of one, in one row of tokens, told to a model so that none sees another.

A token attends to the tokens that it stands behind, and its position is its number among them. Most causal models of
transformers need to be told the positions of examples only: where these start anew they make block-diagonal masks, one for
each type of layer, a sliding window's bound included (`masking_utils.find_packed_sequence_indices`). Branches, and the
other models, take the mask itself.

Shapes: B rows, T tokens, P the most tokens that were read before a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ctxtune.backend.load import Base

Mask = Any
"""a mask (B, 1, T, P + T), one for each type of layer, or None where the model makes it"""


def keep_apart(
    base: Base, ids: Tensor, order: Tensor, end: Tensor, branched: bool, before: int | Sequence[int] = 0
) -> tuple[Mask, Tensor]:
    """The mask, and the positions (B, T), to call a model with.

    `order` (B, T) is the number of tokens that each stands behind; those that stand behind it end at column `end` (B, T).
    `before` tokens, which all see, were read earlier; where it tells of each row how many, they are padded at the right.
    """
    anatomy, config = base.anatomy, cast("Any", base.model.config)
    positions = _behind_pad(ids, order, config.pad_token_id) if anatomy.counts_pads else order
    if anatomy.apart == "positions" and not branched and not before:
        return None, positions
    column = torch.arange(ids.shape[1], device=ids.device)
    first = column.expand_as(order) if anatomy.kind == "causal" else column - order  # the first that sees a token
    seen = (first[:, None] <= column[:, None]) & (column[:, None] < end[:, None])  # (B, T, T)
    if anatomy.kind != "causal":
        return seen[:, None], positions
    read = torch.as_tensor(before, device=ids.device).view(-1, 1)  # (B, 1), or of all rows together (1, 1)
    most, positions = int(read.max()), positions + read
    there = functional.pad(positions, (most, 0))  # (B, P + T), of what is seen
    earlier = torch.arange(most, device=ids.device)
    there[:, :most] = earlier
    seen = torch.cat([(earlier < read)[:, None].expand(*seen.shape[:2], -1), seen], dim=2)[:, None]
    return by_layer(base, seen, positions, there), positions


def by_layer(base: Base, seen: Tensor, here: Tensor, there: Tensor) -> Mask:
    """The mask `seen` (B, 1, T, P + T) as the layers want it: those with a sliding window look only so far back.

    `here` (B, T) and `there` (B, P + T) are the positions of those that look and of what they look at.
    """
    window = window_of(base)
    if window is None:
        return seen
    near = seen & (here[:, None, :, None] - there[:, None, None, :] < window)
    types = set(getattr(base.model.config, "layer_types", None) or ())
    if types <= {"sliding_attention"}:
        return near
    return {name: near if name == "sliding_attention" else seen for name in types}


def window_of(base: Base) -> int | None:
    """How far back layers with a sliding window look; None where all layers see everything."""
    config = cast("Any", base.model.config)
    used = getattr(config, "use_sliding_window", True) is not False
    return (getattr(config, "sliding_window", None) or None) if used else None


def _behind_pad(ids: Tensor, order: Tensor, pad: int) -> Tensor:
    """RoBERTa's positions: those that are no pads are counted from `pad` + 1 on, within each example."""
    real = (ids != pad).long()
    count = real.cumsum(1)
    before = torch.cat([torch.zeros_like(count[:, :1]), count], dim=1)
    start = (
        torch.arange(ids.shape[1], device=ids.device) - order
    )  # (B, T): the column in which a token's example begins
    return pad + (count - before.gather(1, start)) * real
