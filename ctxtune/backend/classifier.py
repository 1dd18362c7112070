"""A classifier in place of a head that an encoder's files do not hold: its first token's state tells the choices apart.

    logits (N, C) = W f(h_0) + b      f is the encoder's pooler, or the family's own dense layer: tanh(P h_0 + p)

These are transformers' models for sequence classification (Devlin et al. 2019; Liu et al. 2019). W and b begin at zero, so
that no choice is preferred before something was learned; a dense layer that the files do not hold is drawn from a fixed
seed, so that a base is the same base wherever it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ctxtune.backend.anatomy import Anatomy


DEVIATION = 0.02
"""of first values: BERT's own, whatever a configuration says"""


def fresh_head(model: nn.Module, anatomy: Anatomy, stored: Collection[str]) -> dict[str, Tensor]:
    """First values of those numbers of the classifier that files with the parameters `stored` do not hold."""
    if anatomy.kind != "classifier":
        return {}
    generator = torch.Generator().manual_seed(0)
    last = [name for name, _ in model.named_parameters() if name.startswith(f"{anatomy.head}.")][-2:]
    values = {}
    for name, parameter in model.named_parameters():
        if anatomy.in_head(name) and name not in stored:
            values[name] = torch.zeros(parameter.shape)
            if parameter.dim() > 1 and name not in last:
                values[name].normal_(0.0, DEVIATION, generator=generator)
    return values


def is_untrained(model: nn.Module, anatomy: Anatomy) -> bool:
    """Whether a classifier has learned nothing yet: it gives all choices the same probability."""
    if anatomy.kind != "classifier":
        return False
    *_, weight, _ = (parameter for _, parameter in model.get_submodule(anatomy.head).named_parameters())
    return not weight.any()


class FirstToken(nn.Module):
    """The modules of a classifier one after another, for rows (N, D) that are states of first tokens.

    The first of them takes a text (B, T, D) and looks at its first token alone.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(modules)

    def forward(self, hidden: Tensor) -> Tensor:
        first, *others = self.steps
        rows: Tensor = first(hidden[:, None])
        for module in others:
            rows = module(rows)
        return rows
