"""Numbers in a narrower type than float32: what stays as it is takes it for good, what moves takes it for each product.

    frozen     w is stored as round(w)
    moving     w is stored in float32, its gradient and its optimiser's state too; a forward pass computes with round(w)

(Micikevicius et al. 2018, "Mixed precision training": master weights). So one forward pass is that of the model whose numbers
were all rounded, whether a number is to move or not: an adapter attached to a frozen model gives equal logits. Buffers keep
their type, as transformers leaves them: positions are too coarse in 16 bits.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Collection

    import torch


def kept_wide(model: nn.Module, moving: Collection[str]) -> set[str]:
    """The parameters that stay float32: all of a module in which one of `moving` lies, under each of their names."""
    every = list(model.named_parameters(remove_duplicate=False))
    names = set(moving)
    moved = {id(parameter) for name, parameter in every if name in names}
    homes = {name.rpartition(".")[0] for name, parameter in every if id(parameter) in moved}
    wide = {id(parameter) for name, parameter in every if name.rpartition(".")[0] in homes}
    return {name for name, parameter in every if id(parameter) in wide}


def narrow(model: nn.Module, dtype: torch.dtype, moving: Collection[str]) -> None:
    """Let a float32 model compute in `dtype`, of which modules with a parameter of `moving` keep float32 numbers."""
    wide = kept_wide(model, moving)
    done: dict[int, nn.Parameter] = {}
    for place, module in model.named_modules():
        own = [(name, parameter) for name, parameter in module.named_parameters(recurse=False)]
        if any((f"{place}.{name}" if place else name) in wide for name, _ in own):
            module.forward = partial(_rounded, module, dtype)  # type: ignore[method-assign, unused-ignore]
            continue
        for name, parameter in own:
            if parameter.is_floating_point() and parameter.dtype is not dtype:
                value = done.get(id(parameter))
                if value is None:
                    value = done[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
                setattr(module, name, value)


def _rounded(module: nn.Module, dtype: torch.dtype, *args: Any, **kwargs: Any) -> Any:
    """The module's own forward with its numbers rounded; their gradient passes through to float32."""
    own = module._parameters
    module._parameters = {name: value if value is None else value.to(dtype) for name, value in own.items()}  # type: ignore[misc]
    try:
        return type(module).forward(module, *args, **kwargs)
    finally:
        module._parameters = own
