"""AdamW without a schedule: the rate stays, what is kept is a mean of where it has been (Defazio et al. 2024).

"The Road Less Scheduled":

    y = (1 - b1) z + b1 x                               here gradients are taken: the parameters while they learn
    v = b2 v + (1 - b2) g^2                             without its bias: v / (1 - b2^t)
    z = z - lr (g / (sqrt(v) + eps) + decay y)
    x = (1 - c) x + c z                                 c = lr^2 / (sum of lr^2 until now): what is scored and kept

No x is stored: it follows from y and z. A number that comes to a stop (optimizer.py) stops at its x.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

BETAS = (0.9, 0.999)


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free AdamW; the rate of each step is set from outside, and rises at most."""

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": BETAS, "eps": 1e-8, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; gradients are there."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._move(param, group)

    def _move(self, param: nn.Parameter, group: dict[str, Any]) -> None:
        (one, two), lr, state = group["betas"], group["lr"], self.state[param]
        assert param.grad is not None
        if not state:
            state["step"], state["weights"] = torch.zeros(()), torch.zeros((), dtype=torch.float64)
            state["exp_avg_sq"], state["z"] = torch.zeros_like(param), param.detach().clone()
        state["step"] += 1
        state["weights"] += lr**2
        share = lr**2 / float(state["weights"]) if lr else 0.0
        squares = state["exp_avg_sq"].mul_(two).addcmul_(param.grad, param.grad, value=1 - two)
        size = (squares / (1 - two ** float(state["step"]))).sqrt_().add_(group["eps"])
        direction = (param.grad / size).add_(param, alpha=group["weight_decay"])
        param.lerp_(state["z"], share).add_(direction, alpha=lr * (one * (1 - share) - 1))
        state["z"].sub_(direction, alpha=lr)

    @torch.no_grad()
    def end(self, param: Tensor) -> None:
        """From y to x: the parameter is what is kept of it. Another step would begin anew."""
        if state := self.state.pop(param, None):
            param.lerp_(state["z"], 1 - 1 / self.defaults["betas"][0])


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Meanwhile the parameters are x, where an optimiser has one; behind it they are to the bit what they were."""
    if not isinstance(optimizer, ScheduleFree):
        yield
        return
    kept = {param: (param.detach().clone(), state) for param, state in optimizer.state.items()}
    end(optimizer)
    try:
        yield
    finally:
        with torch.no_grad():
            for param, (before, state) in kept.items():
                param.copy_(before)
                optimizer.state[param] = state


def end(optimizer: torch.optim.Optimizer) -> None:
    """The last step was taken: where an optimiser has a mean, the parameters are it."""
    if isinstance(optimizer, ScheduleFree):
        for param in list(optimizer.state):
            optimizer.end(param)
