"""How much of what one mask chooses another chooses as well, by layer; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxtune.adapter.bits import CONTAINER as BITS
from ctxtune.adapter.bits import moved_of
from ctxtune.adapter.extent import places_of
from ctxtune.adapter.mask import CONTAINER
from ctxtune.backend.mask import intersection, numel
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from ctxtune.adapter.read import AdapterFile


@dataclass(frozen=True)
class Overlap:
    """Numbers that both masks choose in a layer, and that either does; `layer` is None outside of the layers."""

    layer: int | None
    shared: int
    either: int

    @property
    def jaccard(self) -> float:
        """|A and B| / |A or B| (Jaccard 1901)."""
        return self.shared / self.either if self.either else 0.0


def overlaps(one: AdapterFile, other: AdapterFile) -> list[Overlap]:
    """One for each layer in which either chooses something, in their order; what lies in no layer at the end.

    Raises:
        AdapterError: one of them holds no mask, or they are for tensors of other sizes.
    """
    for adapter in (one, other):
        if adapter.container not in (CONTAINER, BITS):
            raise AdapterError(f"{adapter.path} holds no mask to compare", "name two adapters of `ctxtune mask`")
    masks = [moved_of(adapter) for adapter in (one, other)]
    try:
        both = intersection(*masks)
    except ValueError as error:
        raise AdapterError(f"{one.path} and {other.path}: {error}", "compare masks of one base") from error
    layers = {name: layer for name, (layer, _) in places_of(dict.fromkeys([*masks[0], *masks[1]])).items()}
    found = []
    for layer in sorted(set(layers.values()), key=lambda layer: math.inf if layer is None else layer):
        shared, *each = (
            numel({name: part for name, part in mask.items() if layers[name] == layer}) for mask in (both, *masks)
        )
        found.append(Overlap(layer, shared, sum(each) - shared))
    return found
