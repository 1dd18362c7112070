"""Muon: steps of matrices whose directions are all of the same length (Jordan et al. 2024).

    m = 0.95 m + g                       g' = g + 0.95 m                                        (Nesterov)
    X = g' / |g'|                        X = a X + (b A + c A A) X,  A = X X',  five times      (Newton-Schulz)
    W = W - lr (0.2 sqrt(max(rows, columns)) X + decay W)

The factor makes a step as large as AdamW's is as a rule, so that one rate does for both (Liu et al. 2025, Moonlight).
torch.optim.Muon multiplies in bfloat16, which most CPUs emulate: here it is the parameters' own type, and matrices of the same
shape go through it together. Numbers that are no matrix of a block take steps of AdamW.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ctxtune.backend.sharding import placed, whole

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor, nn

MOMENTUM = 0.95
_A, _B, _C = 3.4445, -4.7750, 2.0315
_TIMES = 5


class Muon(torch.optim.Optimizer):
    """Muon for `matrices`, AdamW with betas 0.9 and 0.95 for the other parameters; matrices alone decay."""

    def __init__(self, groups: list[dict[str, Any]], matrices: Collection[nn.Parameter], weight_decay: float) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay})
        self._matrices = frozenset(map(id, matrices))
        self._rest = torch.optim.AdamW(
            [{"params": self.param_groups[0]["params"]}], betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self._rest.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; gradients are there."""
        settings = self._rest.param_groups[0]
        self._rest.param_groups = [
            {**settings, "lr": group["lr"], "params": [one for one in group["params"] if id(one) not in self._matrices]}
            for group in self.param_groups
        ]
        self._rest.step()
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[nn.Parameter]] = {}
            for param in group["params"]:
                if id(param) in self._matrices and param.grad is not None:
                    rows, columns = param.shape
                    shapes.setdefault((min(rows, columns), max(rows, columns)), []).append(param)
            for params in shapes.values():
                self._move(params, group["lr"], group["weight_decay"])

    def _move(self, params: list[nn.Parameter], lr: float, decay: float) -> None:
        """Matrices of one shape, lying or standing."""
        directions = torch.stack([_lying(whole(self._direction(param))) for param in params])
        for param, step in zip(params, orthogonal(directions), strict=True):
            if decay:
                param.mul_(1 - lr * decay)
            turned = step if param.shape[0] <= param.shape[1] else step.t()
            param.add_(placed(turned, param), alpha=-lr * 0.2 * max(param.shape) ** 0.5)

    def _direction(self, param: nn.Parameter) -> Tensor:
        state = self.state[param]
        grad = param.grad
        assert grad is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        momentum: Tensor = state["momentum_buffer"].mul_(MOMENTUM).add_(grad)
        return grad.add(momentum, alpha=MOMENTUM)


def _lying(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (K, R, C), R <= C, with singular values near 1 in the place of their own: between 0.7 and 1.2, as a rule."""
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_TIMES):
        a = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(a, a, a, beta=_B, alpha=_C), x, beta=_A)
    return x
