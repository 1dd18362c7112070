"""Weights that stay or are 0, W' = W M, while all of them are frozen: a score of each says which.

    M = 1 where S > tau, else 0
    dS = dW' W         the straight-through estimator: as if M were S    (Bengio et al. 2013)

W' stands in the tensor, written there before a pass if a bit has changed; W itself is put aside, so that the model gets its own
bytes back. The gradient of a whole tensor is made as ever, taken in by its scores at once and let go, one tensor at a time.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ctxtune.backend.anatomy import Anatomy

START, TAU = 1e-2, 5e-3
"""what a score begins at, and above what its weight stays (Mallya et al. 2018)"""


class Bits:
    """The bits of the named tensors of a model; `scores` are S, each under its tensor's name."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.model = model
        self._params = {name: model.get_parameter(name) for name in names}
        self.scores = {name: _scores(param) for name, param in self._params.items()}
        self._own: dict[str, Tensor] = {}
        self._written: dict[str, int] = {}
        self._undo: list[Callable[[], object]] = []

    def kept(self, name: str) -> Tensor:
        """Which weights of a tensor stay, in its shape."""
        return self.scores[name].detach() > TAU

    def learn(self, anatomy: Anatomy) -> None:
        """Let the model compute with W' as it will be in each pass, and let gradients reach S."""
        for name, param in self._params.items():
            self._own[name] = param.data
            param.data = param.data.clone()
            param.requires_grad_(True)
            self._undo.append(param.register_post_accumulate_grad_hook(partial(self._take, name)).remove)  # type: ignore[no-untyped-call]
        backbone = self.model.get_submodule(anatomy.backbone)
        self._undo.append(backbone.register_forward_pre_hook(lambda *_: self._write()).remove)
        self._write()

    def off(self) -> None:
        """The model as it was, bit for bit; a second call does nothing."""
        for undo in self._undo:
            undo()
        for name, own in self._own.items():
            self._params[name].data = own
            self._params[name].requires_grad_(False)
        self._undo, self._own, self._written = [], {}, {}

    def _write(self) -> None:
        """Scores that nobody wrote to since are not read again: their step is one in place (methods/bits.py), and counts."""
        for name, own in self._own.items():
            version = self.scores[name]._version
            if self._written.get(name) != version and not own.is_meta:
                self._params[name].data.copy_(own.where(self.kept(name), own.new_zeros(())))
            self._written[name] = version

    def _take(self, name: str, param: Tensor) -> None:
        assert param.grad is not None
        scores = self.scores[name]
        asked = param.grad.to(scores.dtype) * self._own[name]
        scores.grad = asked if scores.grad is None else scores.grad.add_(asked)
        param.grad = None


def _scores(param: nn.Parameter) -> nn.Parameter:
    wide = torch.promote_types(param.dtype, torch.float32)
    return nn.Parameter(torch.full_like(param.detach(), START, dtype=wide), requires_grad=False)
