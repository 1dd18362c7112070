"""Masks of earlier runs, chosen again: one as it is, or what several come to together.

No torch: a run checks them before anything heavy is imported.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.adapter.bits import CONTAINER as BITS
from ctxtune.adapter.mask import CONTAINER, read_mask
from ctxtune.adapter.read import open_adapter
from ctxtune.backend.mask import difference, intersection, union
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.mask import Mask
    from ctxtune.recipe.mask import Mask as Settings

_RULES = {"union": union, "intersection": intersection, "difference": difference}


def open_mask(place: str) -> AdapterFile:
    """The file that a mask is in.

    Raises:
        AdapterError: it cannot be read, or holds none.
    """
    adapter = open_adapter(Path(place))
    if adapter.container != CONTAINER:
        raise AdapterError(
            f"{adapter.path} holds no mask, it is a {adapter.kind} adapter{' of bits' * (adapter.container == BITS)}",
            "bits are no mask of changes: name a run of `ctxtune mask` that learned those"
            if adapter.container == BITS
            else "name an adapter of `ctxtune mask`",
        )
    return adapter


def earlier_mask(settings: Settings) -> Mask:
    """What the masks that a recipe names come to, one after the other.

    Raises:
        AdapterError: one of them is none, or is for tensors of other sizes; nothing is left.
    """
    masks = [read_mask(adapter.path, adapter.header) for adapter in map(open_mask, settings.masks)]
    said = f"method.masks {' and '.join(settings.masks)}"
    try:
        found = reduce(_RULES[settings.combine], masks)
    except ValueError as error:
        raise AdapterError(f"{said}: {error}", "take masks of one base") from error
    if not found:
        raise AdapterError(f"{said}: their {settings.combine} chooses nothing", "another combine, or other masks")
    return found
