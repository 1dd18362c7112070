"""How deep a new model is whose minutes are said, and nothing of its size.

More passes over a text than a few teach little that the text does not teach in those (Muennighoff et al. 2023), and a small
model of a small text is best after some PASSES: where the minutes hold more, a deeper one learns more from each. A step is
taken to last as long as what it computes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.pretrain import Pretrain

SIZES = ("depth", "params", "width", "heads", "feed_forward")
PASSES = 3.0
"""over the corpus: 5 layers were best after so many over 2.9 MB (tests/benchmarks/pretrain_bits.py)"""
MOST = 16
"""layers that it comes to by itself"""


def is_open(resolved: Resolved) -> bool:
    """Whether a recipe says how long its model learns, and not how large it is."""
    said = any(resolved.origin[f"method.{size}"] != "default" for size in SIZES)
    return resolved.recipe.minutes is not None and not said


def depth_for(epochs: float, settings: Pretrain, flop: Callable[[Pretrain], int]) -> int:
    """The layers with which so many epochs of the model of `settings` come nearest to PASSES, in proportion; never fewer than
    it has. `flop` is that of a token."""
    work = flop(settings)

    def off(depth: int) -> float:
        return abs(math.log(epochs * work / flop(settings.model_copy(update={"depth": depth})) / PASSES))

    return min(range(settings.depth, MOST + 1), key=off)
