"""A model that is told vectors as if they were words: numbers below 0 among its tokens, -1 - i for vector i.

The module that embeds tokens gets 0 in their place, and what it says there is exchanged for the vectors. Everything behind
it, masks, positions and caches included, is the model's own, so that a text with vectors anywhere in it runs like any other.

Shapes: P vectors, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ctxtune.backend.prefix import embedding_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


@dataclass
class Spoken:
    """Vectors (P, D), made anew by `vectors` for each pass, that a model knows as tokens while this is on."""

    model: nn.Module
    vectors: Callable[[], Tensor]
    _handles: list[RemovableHandle] = field(default_factory=list)
    _virtual: list[Tensor] = field(default_factory=list)

    def on(self) -> None:
        """Let the model know them; a second call does nothing."""
        if not self._handles:
            module = embedding_of(self.model)
            self._handles = [module.register_forward_pre_hook(self._hide), module.register_forward_hook(self._put)]

    def off(self) -> None:
        """Let it forget them; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def _hide(self, _: nn.Module, told: tuple[Any, ...]) -> tuple[Any, ...]:
        ids, *rest = told
        self._virtual = [ids]
        return (ids.clamp(min=0), *rest)

    def _put(self, _: nn.Module, __: tuple[Any, ...], said: Tensor) -> Tensor:
        ids = self._virtual.pop()
        if not bool((ids < 0).any()):
            return said
        vectors = self.vectors().to(said.dtype)
        return torch.where((ids < 0)[..., None], vectors[(-1 - ids).clamp(min=0)], said)
