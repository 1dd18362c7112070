"""AdamW, Muon or schedule-free AdamW over the numbers that move now, each at its share of the rate.

What stands still has no gradient and no state.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from ctxtune.engine.alike import move_alike
from ctxtune.engine.muon import Muon
from ctxtune.engine.schedule_free import ScheduleFree

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch import nn

    from ctxtune.engine.alike import Alike
    from ctxtune.recipe.schema import Train

    Shares = Callable[[int, int], Mapping[str, float]]
    """(step, epoch), both counted from 0 -> the share of the rate of each number that moves then"""


def make_optimizer(
    params: Mapping[str, nn.Parameter], options: Train, matrices: Collection[str] = (),
    alike: Mapping[str, Alike] = MappingProxyType({}),
) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW (Loshchilov & Hutter 2019), Muon of `matrices` or schedule-free AdamW, over the numbers that move; `alike` are
    matrices whose rows learn together."""
    groups: list[dict[str, Any]] = [{"params": list(params.values()), "share": 1.0}]
    if options.optimizer == "schedule_free":
        return ScheduleFree(groups, options.weight_decay)
    made: torch.optim.Optimizer = (
        Muon(groups, [params[name] for name in matrices], options.weight_decay)
        if options.optimizer == "muon"
        else torch.optim.AdamW(groups, lr=0.0, weight_decay=options.weight_decay, fused=True)
    )
    if alike:
        move_alike(made, {params[name]: one for name, one in alike.items()})
    return made


def move(
    params: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, shares: Mapping[str, float]
) -> list[nn.Parameter]:
    """Let the named numbers move from now on, and no others; returns them.

    A number that comes to a stop loses its moments with its place in the optimiser: memory is that of what moves. One that
    moves again starts anew. The moments of what goes on moving stay.
    """
    for name, param in params.items():
        param.requires_grad_(name in shares)
        if name not in shares:
            if isinstance(optimizer, ScheduleFree):
                optimizer.end(param)
            optimizer.state.pop(param, None)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, param in params.items():
        if name in shares:
            groups.setdefault(shares[name], []).append(param)
    now = {id(param): group["share"] for group in optimizer.param_groups for param in group["params"]}
    if now == {id(params[name]): share for name, share in shares.items()}:
        return [param for some in groups.values() for param in some]
    settings: dict[str, Any] = {key: optimizer.param_groups[0][key] for key in optimizer.defaults}
    optimizer.param_groups[:] = [{**settings, "params": some, "share": share} for share, some in groups.items()]
    return [param for some in groups.values() for param in some]


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The rate of the next step; each group takes its share of it, and knows the whole."""
    for group in optimizer.param_groups:
        group["rate"], group["lr"] = lr, lr * group["share"]
