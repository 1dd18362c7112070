"""How much a base minds each change: the diagonal of its Fisher information on a text, before anything moves

    F_i = mean over rows of (d/dD_i sum_t -log p(y_t))^2 / T,   y_t drawn from what the base says    (Kirkpatrick et al. 2017)

T are the tokens of a row. With labels that are drawn 1/2 sum F_i D_i^2 is, to second order and without what two changes do
together, KL(base || tuned) in nats a token; with those of the text it would be another number (Kunstner et al. 2019). The text
is none that forgetting is measured on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from ctxtune.backend.feed import Feed


def fisher(flat: nn.Parameter, text: Feed, seed: int) -> Tensor:
    """F of each number of `flat`, all of which are 0 now."""
    found = torch.zeros_like(flat, requires_grad=False)
    flat.grad = None
    for _ in passes(text, seed):
        if flat.grad is not None:
            found += flat.grad.square()
        flat.grad = None
    return found / len(text.examples)


def passes(text: Feed, seed: int) -> Iterator[None]:
    """A backward pass a row: the mean over them of the square of a weight's gradient is its F."""
    chance = torch.Generator(next(text.trunk.base.model.parameters()).device).manual_seed(seed)
    for row in range(len(text.examples)):
        logits = text.trunk.logits(text.hidden([row])).float()
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=chance)[:, 0]
        total = functional.cross_entropy(logits, drawn, reduction="sum")
        (total / math.sqrt(len(logits))).backward()  # type: ignore[no-untyped-call]
        yield
