"""Pretraining: all numbers of a new model move, each at a rate that suits every width.

What one step changes in what a layer says is to be the same however wide the model is (Yang et al. 2021, muP). A matrix of `w`
inputs that moves by AdamW, each number by about the rate, changes it by w times that; by Muon, whose steps are 0.2 sqrt(w) long
in each direction, by sqrt(w) times it. So that with w = 128 as the measure, the shares of the rate are

                 AdamW        Muon
    matrices     128 / w      sqrt(128 / w)
    head         128 / w      128 / w            both by AdamW
    tokens       1            4                  by trial; 1 where they are the head
    the rest     1            1                  other embeddings, norms, biases
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxtune.recipe.pretrain import NARROW, Pretrain

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.recipe.schema import Train

RATES = {"muon": 0.007, "adamw": 3e-3, "schedule_free": 3e-3}
"""that `lr: auto` stands for"""
EMBEDDINGS = 4.0
"""the share of Muon's rate at which tokens move that are not the head's as well"""


def rate_of(options: Train) -> float:
    """The highest rate of a run."""
    return options.lr if isinstance(options.lr, float) else RATES[options.optimizer]


def spelled(settings: Pretrain, options: Train) -> bool:
    """Whether tokens learn with those that are spelled like them."""
    return settings.spelling if settings.spelling is not None else options.optimizer != "schedule_free"


def shares_of(
    names: Collection[str], matrices: Collection[str], anatomy: Anatomy, settings: Pretrain, optimizer: str
) -> Mapping[str, float]:
    """The share of the rate at which each of the model's numbers moves."""
    wider = NARROW / settings.states
    own = wider**0.5 if optimizer == "muon" else wider
    heads = [name for name in names if name.startswith(f"{anatomy.head}.")]
    words = f"{anatomy.embeddings[0]}." if optimizer == "muon" and heads else None

    def share(name: str) -> float:
        if name in matrices:
            return own
        if name in heads:
            return wider
        return EMBEDDINGS if words is not None and name.startswith(words) else 1.0

    return {name: share(name) for name in names}
