"""The keys and values of tokens that a model has read, so that none of them is read twice.

Texts of several lengths are padded at the left: their last tokens stand in one column, and a sliding window, which counts
columns, sees the right ones. The cache is a plain one, also for models with sliding windows: it drops no
keys, so that it can be cut back anywhere; the model's own mask carries the window.

Shapes: B texts, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctxtune.backend.room import growing_cache
from ctxtune.backend.trunk import cache_argument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.backend.load import Base
    from ctxtune.backend.prefix import Prefix


class Past:
    """What a model has read so far of some texts, which grow together; one alone may begin with a prefix that was read."""

    def __init__(self, base: Base, prefix: Prefix | None = None) -> None:
        self.base = base
        self._prefix = prefix
        self.read_tokens: list[list[int]] = []
        self._takes = set(inspect.signature(base.model.forward).parameters)
        self._cache_name = cache_argument(self._takes) or "past_key_values"
        self._forget()

    def _forget(self) -> None:
        self.read_tokens = [list(self._prefix.tokens)] if self._prefix is not None else []
        self._cache = growing_cache(self._prefix.layers if self._prefix is not None else ())
        self._mask: Tensor | None = None  # (B, T) of what was read; None where nothing is padded
        self._columns = len(self._prefix.tokens) if self._prefix is not None else 0

    def unread(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """What is still to be read of whole texts: one alone may begin like what was read before."""
        return [self.rest(texts[0])] if len(texts) == 1 else [list(text) for text in texts]

    def rest(self, tokens: Sequence[int]) -> list[int]:
        """Go back to where one text parts from `tokens`; returns what is still to be read of them, at least the last."""
        if len(self.read_tokens) != 1 or self._mask is not None:
            self._forget()
        known = self.read_tokens[0] if self.read_tokens else []
        most = min(len(known), len(tokens) - 1)
        shared = next((at for at in range(most) if known[at] != tokens[at]), most)
        # Cut layer by layer, by length: a reading that was interrupted has left its tokens in some layers only.
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[..., :shared, :], layer.values[..., :shared, :]
        self.read_tokens, self._columns = [known[:shared]], shared
        return list(tokens[shared:])

    @torch.no_grad()
    def read(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Read more tokens of every text; the logits (B, V) behind the last of each."""
        longest = max(map(len, texts))
        device = self.base.device.name
        if any(len(text) < longest for text in texts):
            assert not self._columns  # texts begin together, then grow by one token each
            self._mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts], device=device)
        elif self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(texts), longest)], 1)
        ids = torch.tensor([[*[0] * (longest - len(text)), *text] for text in texts], device=device)
        logits: Tensor = self.base.model(
            input_ids=ids, use_cache=True, **{self._cache_name: self._cache}, **self._positions(ids)
        ).logits[:, -1]
        self._columns += longest
        self.read_tokens = self.read_tokens or [[] for _ in texts]
        for known, text in zip(self.read_tokens, texts, strict=True):
            known.extend(text)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def select(self, kept: Sequence[int]) -> None:
        """Only some of the texts go on."""
        index = torch.tensor(kept, device=self.base.device.name)
        self._cache.batch_select_indices(index)
        self._mask = None if self._mask is None else self._mask[index]
        self.read_tokens = [self.read_tokens[at] for at in kept]

    def _positions(self, ids: Tensor) -> dict[str, Tensor | int]:
        """Arguments of the model's forward beside the tokens: places (B, T), mask, and that one row of logits is wanted."""
        asked: dict[str, Tensor | int] = {}
        if self._mask is not None:
            asked["attention_mask"] = self._mask
            asked["position_ids"] = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        else:
            columns = torch.arange(self._columns, self._columns + ids.shape[1], device=ids.device)
            asked["position_ids"] = columns.expand_as(ids)
        return {name: value for name, value in {**asked, "logits_to_keep": 1}.items() if name in self._takes}
