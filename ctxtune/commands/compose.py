"""Several mask adapters of one base become one adapter: read them -> check that they are whole -> add their changes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ctxtune.adapter.read import check_bytes, open_adapter
from ctxtune.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ctxtune.adapter.compose import Composed


def compose(places: Sequence[Path], out: Path, weights: str | None = None) -> Composed:
    """Write the sum of several mask adapters; `weights` are numbers with commas, one for each.

    Raises:
        AdapterError: one is damaged, or they do not go together.
        RecipeError: fewer than two adapters, or weights that are not one number for each.
    """
    if len(places) < 2:
        raise RecipeError("adapter compose takes two adapters or more", "name them one after another")
    counts = None if weights is None else _numbers(weights, len(places))
    adapters = [open_adapter(place) for place in places]
    for adapter in adapters:
        check_bytes(adapter)
    from ctxtune.adapter.compose import compose as write_sum

    return write_sum(adapters, counts, out)


def _numbers(weights: str, count: int) -> list[float]:
    try:
        found = [float(text) for text in weights.split(",")]
    except ValueError:
        found = []
    if len(found) != count or not all(map(math.isfinite, found)):
        raise RecipeError(f"--weights {weights!r} is not a number for each of {count} adapters", "--weights 0.5,0.5")
    return found
