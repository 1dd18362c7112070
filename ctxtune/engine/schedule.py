"""How the learning rate moves over a run: a factor between 0 and 1 for every step."""

from __future__ import annotations

import math


def factor(step: int, steps: int, kind: str, warmup: float) -> float:
    """The share of the peak rate at `step` (counted from 0) of `steps`.

    Linear warm-up over the first `warmup` share of the steps, then `constant`, `linear` to 0, `cosine` to 0 (Loshchilov
    & Hutter 2017), or `wsd`: flat, then linear to 0 over the last fifth (Hu et al. 2024, MiniCPM).
    """
    rise = math.ceil(warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    left = (steps - step) / max(1, steps - rise)  # 1 after the warm-up, above 0 at the last step
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return left
    if kind == "cosine":
        return 0.5 * (1 - math.cos(math.pi * left))
    if kind == "wsd":
        return min(1.0, (steps - step) / max(1, min(math.ceil(0.2 * steps), steps - rise)))
    raise ValueError(f"no schedule is called {kind!r}")


def highest(steps: int, kind: str, warmup: float) -> float:
    """The largest factor of a run: below 1 where it is too short to reach its rate."""
    return max(factor(step, steps, kind, warmup) for step in range(steps))
