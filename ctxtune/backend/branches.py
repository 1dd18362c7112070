"""Texts that go on from one prefix and grow together, all in one row of tokens: the prefix is there once.

Each token sees the prefix and what its own text holds. The columns of the cache are the tokens in the order in which they
were read, so that a turn adds one column a text; `Past` is the same for texts that share nothing, one in a row of its own.

Shapes: B texts, P tokens of the prefix, C columns read behind it, T new ones, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ctxtune.backend.apart import by_layer
from ctxtune.backend.room import growing_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ctxtune.backend.prefix import Prefix
    from ctxtune.backend.trunk import Trunk


class Branches:
    """What a model has read of some texts behind a prefix. The trunk is closed."""

    def __init__(self, trunk: Trunk, prefix: Prefix) -> None:
        self._trunk = trunk
        self._prefix = prefix
        self._cache = growing_cache(prefix.layers)
        self._owner = torch.full((len(prefix.tokens),), -1)  # (P + C,): which text a column belongs to, -1 for all
        self._place = torch.arange(len(prefix.tokens))  # (P + C,): where it stands in its text

    def unread(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """What is still to be read of whole texts.

        Raises:
            ValueError: one of them does not begin with the prefix, or ends with it.
        """
        read = len(self._prefix.tokens)
        if any(tuple(text[:read]) != self._prefix.tokens or len(text) == read for text in texts):
            raise ValueError("the text does not go on from this prefix")
        return [list(text[read:]) for text in texts]

    @torch.no_grad()
    def read(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Read more tokens of every text; the logits (B, V) behind the last of each."""
        device, sizes = self._trunk.base.device.name, torch.tensor([len(text) for text in texts])
        owner = torch.arange(len(texts)).repeat_interleave(sizes)  # (T,)
        known = torch.bincount(self._owner[self._owner >= 0], minlength=len(texts)) + len(self._prefix.tokens)
        place = torch.cat([first + torch.arange(size) for first, size in zip(known, sizes, strict=True)])
        columns = len(self._owner) + torch.arange(len(owner))
        self._owner, self._place = torch.cat([self._owner, owner]), torch.cat([self._place, place])
        mine = (self._owner == owner[:, None]) & (torch.arange(len(self._owner)) <= columns[:, None])
        seen = (mine | (self._owner == -1))[None, None].to(device)  # (1, 1, T, P + C)
        options: dict[str, Any] = {self._trunk.cache_name: self._cache, "use_cache": True}
        hidden = self._trunk.backbone(
            input_ids=torch.tensor([[token for text in texts for token in text]], device=device),
            attention_mask=by_layer(self._trunk.base, seen, place[None].to(device), self._place[None].to(device)),
            position_ids=place[None].to(device),
            **options,
        ).last_hidden_state[0]
        logits = self._trunk.logits(hidden[(sizes.cumsum(0) - 1).to(device)])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def select(self, kept: Sequence[int]) -> None:
        """Only some of the texts go on."""
        new = torch.full((int(self._owner.max()) + 2,), -2)  # the last place is that of -1
        new[list(kept)], new[-1] = torch.arange(len(kept)), -1
        owner = new[self._owner]
        columns = (owner > -2).nonzero()[:, 0]
        self._owner, self._place = owner[columns], self._place[columns]
        for layer in self._cache.layers:
            index = columns.to(layer.keys.device)
            layer.keys, layer.values = layer.keys[..., index, :], layer.values[..., index, :]
