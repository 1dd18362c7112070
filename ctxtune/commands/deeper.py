"""How deep a new model is whose minutes are said, and nothing of its size.

More passes over a text than EPOCHS teach little that the text does not teach in so many (Muennighoff et al. 2023): where the
minutes hold more of them, a deeper model learns more from each. A step is taken to last as long as what it computes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ctxtune.recipe.pretrain import EPOCHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.pretrain import Pretrain

SIZES = ("depth", "params", "width", "heads", "feed_forward")
MOST = 16
"""layers that it comes to by itself"""


def is_open(resolved: Resolved) -> bool:
    """Whether a recipe says how long its model learns, and not how large it is."""
    said = any(resolved.origin[f"method.{size}"] != "default" for size in SIZES)
    return resolved.recipe.minutes is not None and not said


def depth_for(epochs: float, settings: Pretrain, flop: Callable[[Pretrain], int]) -> int:
    """The layers with which so many epochs of the model of `settings` come nearest to EPOCHS, in proportion; never fewer than
    it has. `flop` is that of a token."""
    work = flop(settings)

    def off(depth: int) -> float:
        return abs(math.log(epochs * work / flop(settings.model_copy(update={"depth": depth})) / EPOCHS))

    return min(range(settings.depth, max(settings.depth, MOST) + 1), key=off)
