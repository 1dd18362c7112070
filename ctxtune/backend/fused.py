"""Norms and rotations of positions as one operation each, with a backward pass of its own, while a model learns on a CPU.

    norm        y = w x r,   r = 1 / sqrt(mean(x^2) + eps)                  dx = r (w dy - n mean(n w dy)),   n = x r
    rotation    (a, b) -> (a cos - b sin, b cos + a sin)                    its backward pass turns the other way

transformers spells both in elementary operations, each of which reads and writes all states: of a small model, whose products
are quick, they are a good part of a step. Only what is found to compute the same is replaced, and only inside the block.

Shapes: N states, D the width; B texts, H heads, T tokens, d numbers each.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from ctxtune.backend.device import Device

_ROTATION = "apply_rotary_pos_emb"
_CLOSE = 1e-5


@contextmanager
def fused(model: nn.Module, device: Device) -> Iterator[int]:
    """Meanwhile the model computes the same in fewer operations; how many parts of it do. Elsewhere than on a CPU: none."""
    norms = [module for module in model.modules() if _is_norm(module)] if _suits(device) else []
    turning = _rotations(model) if _suits(device) else {}
    for module in norms:
        module.forward = partial(_norm, module)
    for name in turning:
        setattr(sys.modules[name], _ROTATION, rotate)
    try:
        yield len(norms) + len(turning)
    finally:
        for module in norms:
            del module.forward
        for name, own in turning.items():
            setattr(sys.modules[name], _ROTATION, own)


def _suits(device: Device) -> bool:
    return device.name == "cpu" and not device.narrow


def _is_norm(module: Any) -> bool:
    """Whether a module is a plain RMS norm, by its parts and by what it says."""
    if "forward" in vars(module) or not hasattr(module, "variance_epsilon") or [*module.children()]:
        return False
    if set(dict(module.named_parameters())) != {"weight"} or module.weight.ndim != 1:
        return False
    some = torch.linspace(-3, 3, 4 * len(module.weight), dtype=module.weight.dtype).reshape(4, -1)
    with torch.no_grad():
        return bool(torch.allclose(module(some), _norm(module, some), rtol=_CLOSE, atol=_CLOSE))


def _norm(module: Any, states: Tensor) -> Tensor:
    normed: Tensor = _Norm.apply(states, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return normed


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        scale = scale.square_().div_(states.shape[-1]).add_(eps).rsqrt_()
        normed = states * scale
        ctx.save_for_backward(normed, scale, weight)
        scaled: Tensor = normed * weight
        return scaled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,), (normed, scale, weight) = grads, ctx.saved_tensors
        both = grad * normed
        along = (both @ weight).div_(-weight.shape[0]).unsqueeze(-1)
        pulled = (grad * weight).addcmul_(normed, along).mul_(scale)
        return pulled, both.flatten(0, -2).sum(0), None


def _rotations(model: nn.Module) -> dict[str, Callable[..., Any]]:
    """The modules of Python in which this model's attention finds the rotation that is replaced, and what stands there."""
    places = {type(module).__module__ for module in model.modules()}
    found = {name: getattr(sys.modules[name], _ROTATION, None) for name in sorted(places) if name in sys.modules}
    return {name: own for name, own in found.items() if own is not None and _turns(own)}


def _turns(own: Callable[..., Any]) -> bool:
    """Whether a function turns halves of all numbers of a head, as `rotate` does."""
    query, angle = torch.linspace(-2, 2, 48).reshape(1, 2, 3, 8), torch.linspace(0, 1, 12).reshape(1, 3, 4)
    cos, sin = (torch.cat([one, one], -1) for one in (angle.cos(), angle.sin()))
    try:
        theirs = own(query, query[:, :1], cos, sin)
    except (TypeError, ValueError, RuntimeError):
        return False
    ours = rotate(query, query[:, :1], cos, sin)
    return all(torch.allclose(a, b, rtol=_CLOSE, atol=_CLOSE) for a, b in zip(theirs, ours, strict=True))


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Queries and keys (B, H, T, d), turned by cos and sin (1 or B, T, d or fewer), whose halves are alike; the numbers
    behind those stay."""
    half = cos.shape[-1] // 2
    cos, sin = (one[..., :half].unsqueeze(unsqueeze_dim) for one in (cos, sin))
    return _Rotation.apply(query, cos, sin), _Rotation.apply(key, cos, sin)  # type: ignore[no-untyped-call]


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(states, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, -1), None, None


def _turned(states: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    turned, half = torch.empty_like(states), cos.shape[-1]
    first, second, rest = states[..., :half], states[..., half : 2 * half], states[..., 2 * half :]
    torch.mul(first, cos, out=turned[..., :half]).addcmul_(second, sin, value=-way)
    torch.mul(second, cos, out=turned[..., half : 2 * half]).addcmul_(first, sin, value=way)
    turned[..., 2 * half :] = rest
    return turned
