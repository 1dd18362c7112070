"""Rows of a matrix that share features learn together.

Each row is its own numbers and those of its features, W = W0 + N F A: F (V, K) says which features a row has, N divides by the
square root of how many. A then has the gradient F'N G, where G is that of W, and AdamW moves it beside W0:

    W  <-  W - lr (AdamW's step of G + N F (AdamW's step of F'N G))

so that A itself is never there, nor in the model: its moments are all that is kept. What one row learns, those like it know
then, the most where they come rarely.

Shapes: V rows, D numbers of each, K features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import embedding_bag

from ctxtune.backend.sharding import placed, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from ctxtune.data.spelling import Spelling

BETAS = (0.9, 0.95)
_TINY = 1e-8


class Alike:
    """Which rows share features: `down` and `up` are the products with N F and its transpose."""

    def __init__(self, spelling: Spelling, device: torch.device | str) -> None:
        counts = torch.from_numpy(spelling.bounds).diff()
        rows = torch.repeat_interleave(torch.arange(len(counts)), counts)
        features = torch.from_numpy(spelling.features)
        order = features.argsort(stable=True)
        ends = torch.bincount(features, minlength=spelling.count).cumsum(0)
        begins = torch.cat([ends.new_zeros(1), ends[:-1]])
        self._features, self._bounds = features.to(device), torch.from_numpy(spelling.bounds[:-1]).to(device)
        self._rows, self._begins = rows[order].to(device), begins.to(device)
        self._scale = counts.clamp(min=1).rsqrt()[:, None].to(device)

    def down(self, some: Tensor) -> Tensor:
        """(K, D) -> (V, D)"""
        return embedding_bag(self._features, some, self._bounds, mode="sum").mul_(self._scale)

    def up(self, some: Tensor) -> Tensor:
        """(V, D) -> (K, D)"""
        return embedding_bag(self._rows, some * self._scale, self._begins, mode="sum")


def move_alike(optimizer: torch.optim.Optimizer, alike: Mapping[nn.Parameter, Alike]) -> None:
    """From now on, behind each step of AdamW or Muon, these matrices take the other part of it."""

    def after(*_: Any) -> None:
        for group in optimizer.param_groups:
            for param in group["params"]:
                if param in alike and param.grad is not None:
                    _move(param, alike[param], optimizer.state[param], group["lr"])

    optimizer.register_step_post_hook(after)


@torch.no_grad()
def _move(param: nn.Parameter, alike: Alike, state: dict[str, Any], lr: float) -> None:
    assert param.grad is not None
    grad = alike.up(whole(param.grad))
    if "alike" not in state:
        state["alike"], state["alike_sq"] = torch.zeros_like(grad), torch.zeros_like(grad)
    mean, squares = state["alike"], state["alike_sq"]
    mean.lerp_(grad, 1 - BETAS[0])
    squares.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
    first, second = (1 - beta ** float(state["step"]) for beta in BETAS)
    step = (mean / first).div_((squares / second).sqrt_().add_(_TINY))
    param.add_(placed(alike.down(step), param), alpha=-lr)
