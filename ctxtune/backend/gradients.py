"""What backward passes say of a model's weights, a tensor at a time: no two dense gradients are there at once.

Of a quantised layer y = Q(x) the gradient is that of its float weight, g^T x, read off at its output.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch

from ctxtune.backend.quantise import Quantised
from ctxtune.backend.tap import replace_forward, tap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor, nn

    See = Callable[[str, Tensor], None]
    """(name of a parameter, its gradient in the shape that the files have)"""


@contextmanager
def reading_gradients(model: nn.Module, names: Iterable[str], see: See) -> Iterator[None]:
    """Inside, each backward pass shows the gradients of the named parameters to `see`, and keeps none."""
    with ExitStack() as stack:
        for name in names:
            place, _, last = name.rpartition(".")
            module = model.get_submodule(place)
            if isinstance(module, Quantised) and last == "weight":
                leaf = torch.zeros((), device=module.weight.device, requires_grad=True)
                told = partial(_codes, see, name, module.turned)
                stack.callback(replace_forward(module, partial(_read, module.forward, leaf, told)))
            else:
                _watch(stack, module.get_parameter(last), partial(see, name))
        yield


def _watch(stack: ExitStack, param: nn.Parameter, see: Callable[[Tensor], None]) -> None:
    stack.callback(param.requires_grad_, param.requires_grad)
    param.requires_grad_(True)

    def forget(whole: Tensor) -> None:
        whole.grad = None

    # Before it is added to others that somebody gathers: who trains a part of this parameter sees it afterwards.
    stack.callback(param.register_hook(see).remove)  # type: ignore[no-untyped-call]
    stack.callback(param.register_post_accumulate_grad_hook(forget).remove)  # type: ignore[no-untyped-call]


def _read(
    forward: Callable[[Tensor], Tensor], leaf: Tensor, told: Callable[[Tensor, Tensor], None], x: Tensor
) -> Tensor:
    y = forward(x)
    return tap(y, x.detach().reshape(-1, x.shape[-1]), leaf, told) if torch.is_grad_enabled() else y


def _codes(see: See, name: str, turned: bool, x: Tensor, g: Tensor) -> None:
    """From the input x (M, K) and the output's gradient g (M, N)."""
    see(name, x.t() @ g if turned else g.t() @ x)
