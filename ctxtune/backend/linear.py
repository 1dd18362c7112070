"""Matrix products at the speed of the processor.

torch sends float32 products on x86 to MKL, which leaves AVX-512 unused on processors that are not Intel's: 200 GFLOP/s
where oneDNN, which torch carries as well, reaches 460 on the same two cores. `quicken` lets the linear layers of a model
go through oneDNN there. The numbers are float32 either way; the order of the sums differs, so that the choice depends on
the processor alone and never on a timing: a resumed run must take the same path.
"""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


# Of every shape of a product that it has met oneDNN keeps the code, and torch the plan: 1,024 of each by default, a quarter
# of a MiB a piece. A stream of questions meets a new shape in every batch; to make a plan anew costs nothing that shows.
PLANS = 64
WIDE = 16_384  # outputs of a layer that is a head over a vocabulary, and nothing else


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., K) times weight (N, K) transposed, plus bias (N,)."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _Linear(torch.autograd.Function):
    """y = x W^T + b with all three products of the backward pass through oneDNN as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # A frozen weight needs no input for its gradient: what is not kept does not cost memory.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])  # (M, N)
        grad_x = _product(grad, weight.t(), None) if ctx.needs_input_grad[0] else None
        grad_weight = _product(flat.t(), x.reshape(-1, x.shape[-1]).t(), None) if ctx.needs_input_grad[1] else None
        grad_bias = flat.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` through oneDNN. x (..., K), weight (N, K), bias (N,) -> (..., N), float32 on the CPU."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        result: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    return _product(x, weight, bias)


@functools.cache
def onednn_is_faster() -> bool:
    """True where MKL would leave AVX-512 unused: an x86 processor that has it and is not Intel's."""
    return _foreign_to_mkl() and torch.backends.cpu.get_cpu_capability() == "AVX512"


@functools.cache
def _foreign_to_mkl() -> bool:
    """True on an x86 processor that is not Intel's, where torch carries both libraries."""
    if platform.machine() not in ("x86_64", "AMD64") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        vendor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        vendor = platform.processor()
    return "GenuineIntel" not in vendor


def quicken(model: nn.Module) -> bool:
    """Send the float32 linear layers of a CPU model through oneDNN where that is faster; says whether it did for all.

    Without AVX-512 the two are equal on what fits the caches, but a head of 50,000 rows, read from memory for a few states,
    takes MKL twice as long: it alone goes through oneDNN there.
    """
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(PLANS))
    everything = onednn_is_faster()
    if not everything and not _foreign_to_mkl():
        return False
    for module in model.modules():
        if isinstance(module, nn.Linear) and _is_plain(module) and (everything or module.out_features >= WIDE):
            module.forward = functools.partial(_forward, module)  # type: ignore[method-assign]
    return everything


def _is_plain(module: nn.Linear) -> bool:
    return type(module) is nn.Linear and module.weight.dtype is torch.float32 and module.weight.device.type == "cpu"


def _forward(module: nn.Linear, x: Tensor) -> Tensor:
    return (linear if _suits(x) else nn.functional.linear)(x, module.weight, module.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., K) times weight (N, K) transposed, plus bias (N,), by the library that is faster here."""
    return (linear if onednn_is_faster() and _suits(x) else nn.functional.linear)(x, weight, bias)


def _suits(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.device.type == "cpu" and x.numel() > 0
