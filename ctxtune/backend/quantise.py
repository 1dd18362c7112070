"""Frozen linear layers in 8 or 4 bits: stored small, made float again for each product.

    int8        W[n, k] = q[n, k] s[n] / 127        s[n] = max |W[n, :]|, q a whole number in -127 .. 127
    nf4, fp4    W[i] = level[c[i]] a[i // 32]       a fits 32 numbers in a row (levels.py), c one of 16 levels

Dettmers et al. 2022 and 2023; bitsandbytes reads the codes, and makes those of int8; bits.py says which layer takes which.
Activations stay float: LLM.int8() rounds them too, and which columns it spares depends on the other rows of the batch, so
that an example's logits would depend on its neighbours. Here a product is that of a float layer whose weight was rounded
once: what holds for the one holds for the other.

The float weight of a layer lives for one product; nothing of it is kept for the backward pass, which makes it again.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ctxtune.backend.bits import BLOCK, stored_as, stored_bytes
from ctxtune.backend.levels import Levels, encode, tabled
from ctxtune.backend.library import one_line
from ctxtune.backend.linear import product
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection

    from ctxtune.backend.anatomy import Anatomy


class Quantised(nn.Module):
    """y = x W^T + b for x (..., K), W (N, K) in few bits, b (N,). `weight` holds the codes; it cannot train.

    `turned` is whether the files hold W as (K, N).
    """

    scales: Tensor

    def __init__(
        self, weight: Tensor, bias: nn.Parameter | None, quant: str, importance: Tensor | None = None,
        turned: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.quant = quant
        self.turned = turned
        self.out_features, self.in_features = weight.shape
        codes, scales = _encode(weight.contiguous(), quant, importance)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("scales", scales)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return result

    def float_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """W (N, K) as it is computed with."""
        return _decode(self.weight, self.scales.float(), (self.out_features, self.in_features), self.quant).to(dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.quant}"


class _Product(torch.autograd.Function):
    """The product and its gradient for x; there is none for W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Quantised) -> Tensor:
        ctx.layer = layer
        return product(x, layer.float_weight(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads  # (..., N)
        return product(grad, ctx.layer.float_weight(grad.dtype).t(), None), None


def _encode(weight: Tensor, quant: str, importance: Tensor | None) -> tuple[Tensor, Tensor]:
    """W (N, K) float32 to codes and scales; `importance` as of `levels.encode`."""
    if quant == "int8":
        codes, scales, _ = _bitsandbytes().int8_vectorwise_quant(weight)
        return codes, scales
    return encode(weight, _levels(quant, str(weight.device)), importance)


@cache
def _levels(quant: str, device: str) -> Levels:
    return tabled(_bitsandbytes().get_4bit_type(quant, device=device).float())


def _decode(codes: Tensor, scales: Tensor, shape: tuple[int, int], quant: str) -> Tensor:
    """Codes and scales to W (N, K) float32."""
    library = _bitsandbytes()
    if quant == "int8":
        weight: Tensor = library.int8_vectorwise_dequant(codes, scales)
        return weight
    # Where a row ends within a block, bitsandbytes' code for AVX-512 begins a new block at each row: it gets one long row.
    rows = shape if shape[1] % BLOCK == 0 else (1, shape[0] * shape[1])
    state = library.QuantState(scales, shape=rows, blocksize=BLOCK, quant_type=quant, dtype=torch.float32)
    weight = library.dequantize_4bit(codes, state).view(shape)
    return weight


@cache
def _bitsandbytes() -> Any:
    """Its functions, without torch's compiler, which it would load for its optimisers: 5 seconds and 40 MB."""
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # advice about GPUs
    compiler, torch.compile = torch.compile, _as_it_is  # type: ignore[assignment]
    try:
        from bitsandbytes import functional
    except (ImportError, RuntimeError, OSError) as error:  # its native library may not load on this system
        raise ModelError(f"quant: bitsandbytes does not load: {one_line(error)}", "leave --quant out") from error
    finally:
        torch.compile = compiler
    return functional


def _as_it_is(function: Any, **_: object) -> Any:
    return function


def quantisable(model: nn.Module, anatomy: Anatomy, moving: Collection[str]) -> list[str]:
    """The linear layers of the blocks in which no parameter moves and which share their weight with nobody.

    Embeddings, head and norms stay float: they are few, and the head is where rounding costs most.
    """
    every = list(model.named_parameters(remove_duplicate=False))
    users = Counter(id(parameter) for _, parameter in every)
    names = set(moving)
    barred = {id(parameter) for name, parameter in every if name in names or users[id(parameter)] > 1}
    return [
        f"{anatomy.blocks}.{name}"
        for name, module in model.get_submodule(anatomy.blocks).named_modules()
        if is_linear(module) and not any(id(parameter) in barred for parameter in module.parameters(recurse=False))
    ]


def is_linear(module: nn.Module) -> bool:
    """A plain linear layer; GPT-2's Conv1D is one, with its weight stored (K, N)."""
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def is_turned(module: nn.Module) -> bool:
    """Whether the files hold the weight of a linear layer as (K, N)."""
    return module.turned if isinstance(module, Quantised) else type(module).__name__ == "Conv1D"


def stored_shape(module: nn.Module, parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape in which the files hold a parameter of a module, whatever its codes have."""
    if not isinstance(module, Quantised) or parameter is not module.weight:
        return tuple(parameter.shape)
    shape = module.out_features, module.in_features
    return shape[::-1] if module.turned else shape


def weight_bytes(model: nn.Module) -> int:
    """What the weights of a model take in memory, each once."""
    scales = (module.scales.nbytes for module in model.modules() if isinstance(module, Quantised))
    return sum(parameter.nbytes for parameter in model.parameters()) + sum(scales)


def foreseen_bytes(model: nn.Module, anatomy: Anatomy, quant: str, moving: Collection[str]) -> int:
    """What `weight_bytes` will say of a skeleton once it has its numbers."""
    total = weight_bytes(model)
    for name in quantisable(model, anatomy, moving) if quant != "none" else ():
        module = model.get_submodule(name)
        weight: Any = module.weight
        rows = weight.shape[0] if isinstance(module, nn.Linear) else weight.shape[1]
        total -= weight.nbytes
        total += stored_bytes(weight.numel(), rows, stored_as(name, quant))
    return total


def describe(model: nn.Module, anatomy: Anatomy) -> str:
    """Which of the linear layers are quantised, and what that saves, in words."""
    modules = list(model.get_submodule(anatomy.blocks).modules())
    quantised = [module for module in modules if isinstance(module, Quantised)]
    linear = len(quantised) + sum(map(is_linear, modules))
    if not quantised:
        return f"none of the {linear} linear layers of the blocks stays as it is, so that none is quantised"
    now = sum(layer.weight.nbytes + layer.scales.nbytes for layer in quantised) / 1e6
    then = sum(layer.out_features * layer.in_features for layer in quantised) * 4 / 1e6
    kinds = Counter(layer.quant for layer in quantised).most_common()
    where = f"{len(quantised)} of the {linear} linear layers of the blocks in {kinds[0][0]}"
    values = "".join(f" ({count} of them, of values, in {quant})" for quant, count in kinds[1:])
    return f"{where}{values}, {now:.1f} MB instead of {then:.1f}"
