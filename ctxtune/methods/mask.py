"""Mask: a few numbers of the weights move, W' = W + D with D = 0 outside of a mask; all others stay as they are.

A random mask of one weight in a hundred learns as well as LoRA of the same size (Bhardwaj et al. 2024, "SHiRA"; Xu & Zhang
2024, "Random masking") and moves the model less than one chosen by gradients alone, which takes what every text needs. The
default is what the rows ask for and other text does not: `contrast` (scoring.py), the same share of every layer.
Columns are the default: all weights that read one input of a layer. They cost least, since of the input of the layer these
columns alone are kept for the backward pass (backend/delta.py).

What else numbers are chosen by stands in methods/choosing.py; all biases or all norms are Ben Zaken et al. 2022, "BitFit".

A choice of layers (recipe/layers.py) says where; without a word of their own, embeddings and head have no part. D begins as 0
and is what weight decay and adapters know; it is rounded to the type of the file before it is scored for the last time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ctxtune.adapter.mask import DELTA, encode, sizes_text
from ctxtune.backend.delta import Delta
from ctxtune.backend.mask import Part, numel
from ctxtune.methods.choosing import candidates, select, share_of
from ctxtune.methods.gates import Gates
from ctxtune.methods.layers import depths
from ctxtune.methods.motion import ENDLESS, Span
from ctxtune.methods.penalty import Penalty, penalty_of
from ctxtune.methods.regrow import Regrowth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.mask import Mask
    from ctxtune.recipe.mask import Mask as Settings

LADDER = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


@dataclass
class Opened:
    """A mask on a loaded base, and the changes to what it chooses; with `gates` until these have decided."""

    delta: Delta
    names: Sequence[str]
    start: int
    stored: torch.dtype
    regrow: Regrowth | None = None
    penalty: Penalty | Gates | None = None
    gates: Gates | None = None
    virtual: None = None
    ladder: Sequence[float] = LADDER

    @property
    def mask(self) -> Mask:
        """What moves now."""
        return {name: piece.part for name, piece in self.delta.pieces.items()}

    @property
    def chosen(self) -> Mask:
        """What moves in the end, without a classifier, all of which does; of gates as many as will stay."""
        delta = self.delta if self.gates is None else self.gates.kept()
        return {name: delta.pieces[name].part for name in self.names}

    @property
    def params(self) -> Mapping[str, nn.Parameter]:
        """All changes in one vector, and what decides which of them stay."""
        return self.gates.params if self.gates is not None else {"delta": self.delta.flat}

    def shares(self, step: int, epoch: int) -> dict[str, float]:
        """All of them move all the time."""
        return self.gates.shares(step) if self.gates is not None else {"delta": 1.0}

    def finish(self) -> bool:
        """Keep what gates let stay, and round the changes to what the file can hold; the model computes with that."""
        wide, gates, self.gates = self.delta, self.gates, None
        if gates is not None:
            gates.decide()
            self.delta = gates.kept()
        with torch.no_grad():
            self.delta.flat.copy_(self.delta.flat.to(self.stored))
        if gates is not None:
            wide.off()
            self.delta.on()
        self.delta.write()
        return self.stored is not torch.float32 or gates is not None

    def tensors(self) -> dict[str, Tensor]:
        """Which numbers, and by how much they change."""
        found: dict[str, Tensor] = {}
        kept = self.delta if self.gates is None else self.gates.kept()
        for name, values in kept.values().items():
            part = kept.pieces[name].part
            found[f"{name}.{part.kind}"] = torch.from_numpy(encode(part))
            found[name + DELTA] = values.to(self.stored)
        return found

    def metadata(self) -> dict[str, str]:
        """How large each parameter is."""
        return sizes_text(self.mask)

    def config(self, base_name: str) -> None:
        """None: PEFT's sparse adapters hold less than a mask can choose; that is an export."""


def open_method(settings: Settings, model: nn.Module, anatomy: Anatomy, span: Span = ENDLESS) -> Opened:
    """Choose the numbers, and let them move.

    Raises:
        RecipeError: `settings` choose nothing of this model, or layers that it does not have.
        AdapterError: an earlier mask is for another model.
    """
    return open_mask(select(settings, model, anatomy, span), settings, model, anatomy, span)


def open_mask(chosen: Mask, settings: Settings, model: nn.Module, anatomy: Anatomy, span: Span = ENDLESS) -> Opened:
    """Let these numbers move."""
    head = _classifier(model, anatomy)
    chosen = {name: part for name, part in chosen.items() if name not in head}
    delta = Delta(model, mask := {**chosen, **head})
    gates = _gates(settings, delta, chosen, anatomy, span)
    delta.learn(anatomy, gates.lay if gates is not None else lambda: None)
    everything = dict(model.named_parameters(remove_duplicate=False))
    depth = depths(everything, anatomy, len(anatomy.block_list(model)))
    start = min(depth[id(everything[name])] for name in mask)
    regrow = Regrowth(settings, model, delta, tuple(chosen), span.steps) if settings.select == "grad" else None
    penalty = gates or penalty_of(settings, delta.flat, numel(chosen))
    return Opened(delta, tuple(chosen), start, getattr(torch, settings.stored), regrow, penalty, gates)


def _gates(settings: Settings, delta: Delta, chosen: Mask, anatomy: Anatomy, span: Span) -> Gates | None:
    """What decides which of the chosen numbers stay; None where all do."""
    if settings.select != "l0":
        return None
    tensors = candidates(settings, delta.model, anatomy)
    density = share_of(settings, tensors) * sum(map(math.prod, tensors.values())) / numel(chosen)
    return Gates(delta, tuple(chosen), density, max(1, round(settings.decide * span.steps)), span.seed)


def _classifier(model: nn.Module, anatomy: Anatomy) -> Mask:
    """All of a classifier that begins at zero: without it nothing below could be learned."""
    if anatomy.kind != "classifier":
        return {}
    heads = {name: param for name, param in model.named_parameters() if anatomy.in_head(name)}
    return {name: Part("whole", tuple(param.shape), np.arange(0)) for name, param in heads.items()}
