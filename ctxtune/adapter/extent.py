"""How far a mask adapter moves its base: by layer and kind of tensor, from the file alone; no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxtune.adapter.bits import moved_of
from ctxtune.adapter.mask import DELTA, read_changes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctxtune.adapter.read import AdapterFile

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_NORM = re.compile(r"norm|(^|\.)ln_", re.IGNORECASE)
_ENDING = re.compile(r"(?<!c)_(proj|lin)$")  # c_proj is an output of some kind, and "c" nothing


@dataclass(frozen=True)
class Extent:
    """What of one kind of tensor moves in one layer; outside of the layers `layer` is None and `kind` the module's name.

    `rms` is the root mean square of the changes D, `relative` is ||D|| / ||W|| of the chosen numbers; None if not known.
    """

    layer: int | None
    kind: str
    moved: int
    numbers: int
    """that there are"""
    rms: float | None
    relative: float | None

    @property
    def share(self) -> float:
        """Of the numbers that moves."""
        return self.moved / self.numbers


@dataclass
class _Sum:
    moved: int = 0
    numbers: int = 0
    change: float = 0.0  # sum of squares
    weight: float = 0.0


Numbers = Callable[[str, Sequence[int]], NDArray[np.float64]]
"""a parameter of a base, by its name and the shape that it must have"""


def extents(adapter: AdapterFile, weights: Numbers | None = None) -> list[Extent]:
    """One for each layer and kind, in the order of the layers; what lies in no layer at the end.

    Raises:
        AdapterError: the file contradicts itself.
    """
    mask = moved_of(adapter)
    alone = not any(name + DELTA in adapter.header.tensors for name in mask)
    changes = {} if alone else read_changes(adapter.path, adapter.header, mask)
    places = places_of(mask)
    sums: dict[tuple[int | None, str], _Sum] = {}
    for name, part in mask.items():
        found = sums.setdefault(places[name], _Sum())
        found.moved += part.numel
        found.numbers += math.prod(part.size)
        if not alone:
            found.change += float(np.square(changes[name]).sum())
        if weights is not None and not alone:
            found.weight += float(np.square(weights(name, part.size).reshape(-1)[part.entries()]).sum())
    return [
        _extent(layer, kind, found, alone, weights is not None)
        for (layer, kind), found in sorted(sums.items(), key=lambda item: _order(item[0][0]))
    ]


def _order(layer: int | None) -> float:
    return math.inf if layer is None else layer


def _extent(layer: int | None, kind: str, found: _Sum, alone: bool, known: bool) -> Extent:
    rms = None if alone else math.sqrt(found.change / max(found.moved, 1))
    relative = math.sqrt(found.change / found.weight) if known and not alone and found.weight else None
    return Extent(layer, kind, found.moved, found.numbers, rms, relative)


def places_of(parameters: Iterable[str]) -> dict[str, tuple[int | None, str]]:
    """Name of a parameter -> its layer, and its kind: norms, biases, or the shortest name of a module that tells it apart.

    `model.layers.3.self_attn.q_proj.weight` is (3, "q"); what lies in no layer has None and the name of its module.
    """
    inside: dict[str, tuple[int, str]] = {}
    found: dict[str, tuple[int | None, str]] = {}
    for name in parameters:
        layer = _LAYER.search(name)
        module, _, last = name[layer.end() if layer else 0 :].rpartition(".")
        if layer is None:
            found[name] = None, module.rpartition(".")[2] or name
        elif _NORM.search(module):
            found[name] = int(layer[1]), "norms"
        elif last == "bias":
            found[name] = int(layer[1]), "biases"
        else:
            inside[name] = int(layer[1]), module
    words = _short({module for _, module in inside.values()})
    return found | {name: (layer, words[module]) for name, (layer, module) in inside.items()}


def _short(modules: set[str]) -> dict[str, str]:
    """Module within its layer -> the shortest end of its name that no other has."""
    short = {}
    for module in modules:
        parts = module.split(".")
        ends = (".".join(parts[begin:]) for begin in range(len(parts) - 1, -1, -1))
        alone = next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in modules) == 1), module)
        short[module] = _ENDING.sub("", alone)
    return short
