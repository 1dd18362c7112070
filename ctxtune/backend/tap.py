"""The output of a layer as it is, watched on its way back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    Told = Callable[[Tensor, Tensor], None]
    """(what was kept of the input, the gradient of the output (M, N))"""


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, kept: Tensor, leaf: Tensor, told: Told) -> Tensor:
        ctx.told = told
        ctx.save_for_backward(kept)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grads
        (kept,) = ctx.saved_tensors
        ctx.told(kept, grad.reshape(-1, grad.shape[-1]))
        return grad, None, None, None


def tap(y: Tensor, kept: Tensor, leaf: Tensor, told: Told) -> Tensor:
    """y (..., N), of which the backward pass tells; it passes here since `leaf` wants a gradient, which it does not get."""
    watched: Tensor = _Tap.apply(y, kept, leaf, told)  # type: ignore[no-untyped-call]
    return watched


def replace_forward(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Give a module another forward in the place of what it has; the result gives that back."""
    own = module.__dict__.get("forward")
    module.forward = forward
    return partial(_restore, module, own)


def _restore(module: nn.Module, own: Any) -> None:
    if own is None:
        del module.forward
    else:
        module.forward = own
