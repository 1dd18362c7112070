"""Masks of earlier runs that a run takes its numbers from: that they are there, whole, and of the same base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxtune.adapter.read import check_base, check_bytes
from ctxtune.commands.prepare import hashed
from ctxtune.errors import AdapterError
from ctxtune.methods.reused import open_mask
from ctxtune.recipe.mask import Mask

if TYPE_CHECKING:
    from ctxtune.adapter.read import AdapterFile
    from ctxtune.recipe.schema import Recipe


def mask_inputs(recipe: Recipe) -> dict[str, str]:
    """The hashes of the masks that a recipe names; none of another method.

    Raises:
        AdapterError: one cannot be read, or is none.
        DataError: one is another file now than the recipe's `inputs` name.
    """
    return hashed([adapter.path for adapter in _opened(recipe)], "mask", recipe.inputs or {})


def check_masks(recipe: Recipe, mark: str) -> None:
    """Refuse a mask that is damaged, or was made on another base than that of the fingerprint.

    Raises:
        AdapterError: it says which.
    """
    for adapter in _opened(recipe):
        try:
            check_base(adapter, mark)
        except AdapterError as error:
            raise AdapterError(str(error), "train on that base, or choose anew: a mask is of one base") from error
        check_bytes(adapter)


def _opened(recipe: Recipe) -> list[AdapterFile]:
    return [open_mask(place) for place in recipe.method.masks] if isinstance(recipe.method, Mask) else []
