"""Word embeddings and a head in the 16 bits in which the files have them, read there and float only where they are used.

    x = float(E[ids])              only the rows of words that occur are made float32
    logits = h float(E)^T          a block of the vocabulary at a time; for the gradient of h once more

float32 holds every number of 16 bits exactly, so that the logits are those of a float copy.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ctxtune.backend.folder import weight_files
from ctxtune.backend.linear import product
from ctxtune.backend.skeleton import stored_names, tied_groups
from ctxtune.backend.tensors import read_header

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

WORDS = 4096  # rows of a head that are float at once
HALF = {"BF16": torch.bfloat16, "F16": torch.float16}


def keep_words(model: Any, folder: Path, moving: Collection[str]) -> set[str]:
    """Let the embeddings and the head of a skeleton read their numbers in 16 bits; the names of the parameters that do.

    Left alone is what moves, what the files hold in another type, and a module that does more than look up or multiply.
    """
    types = {name: info.dtype for path in weight_files(folder) for name, info in read_header(path).tensors.items()}
    homes = stored_names(model, types)
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    plain = {id(module) for module in modules if type(module) in (nn.Embedding, nn.Linear)}
    kept: set[str] = set()
    for names in tied_groups(model):
        places = [model.get_submodule(name.rpartition(".")[0]) for name in names]
        stored = {types[homes[name]] for name in names if name in homes}
        alone = all(id(module) in plain and getattr(module, "bias", None) is None for module in places)
        if not alone or not stored <= set(HALF) or len(stored) != 1 or not set(names).isdisjoint(moving):
            continue
        weight = nn.Parameter(places[0].weight.to(HALF[stored.pop()]), requires_grad=False)
        for module in places:
            module.weight = weight
            module.forward = partial(_look_up if isinstance(module, nn.Embedding) else _say, module)
        kept.update(names)
    return kept


def reads_half(module: nn.Module) -> bool:
    """Whether `keep_words` had it read 16 bits: another value would be rounded to them."""
    return isinstance(module.forward, partial) and module.forward.func in (_look_up, _say)


def _look_up(module: nn.Embedding, ids: Tensor) -> Tensor:
    return nn.functional.embedding(ids, module.weight).float()


def _say(module: nn.Linear, hidden: Tensor) -> Tensor:
    result: Tensor = _Logits.apply(hidden, module.weight)  # type: ignore[no-untyped-call]
    return result


class _Logits(torch.autograd.Function):
    """h (..., D) times E (V, D) transposed, and its gradient for h; there is none for E."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        logits = hidden.new_empty(*hidden.shape[:-1], len(weight))
        for begin in range(0, len(weight), WORDS):
            part = weight[begin : begin + WORDS].to(hidden.dtype)
            logits[..., begin : begin + WORDS] = product(hidden, part, None)
        return logits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads  # (..., V)
        result = grad.new_zeros(*grad.shape[:-1], ctx.weight.shape[1])
        for begin in range(0, len(ctx.weight), WORDS):
            part = ctx.weight[begin : begin + WORDS].to(grad.dtype)
            result += product(grad[..., begin : begin + WORDS], part.t(), None)
        return result, None
