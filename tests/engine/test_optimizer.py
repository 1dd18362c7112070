"""Numbers that move at a share of the rate, later than others, or by turns: against torch's own optimisers by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from ctxtune.engine.optimizer import make_optimizer, move, set_rate
from ctxtune.recipe.schema import Train

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

OPTIONS = Train(weight_decay=0.1)
NAMES = ("a", "b", "c")
Phases = list[dict[str, float]]

PHASES: dict[str, Phases] = {
    "shares": [{"a": 0.25, "b": 0.5, "c": 1.0}] * 6,
    "one after another": [{"c": 1.0}] * 2 + [{"b": 1.0, "c": 1.0}] * 2 + [{"a": 0.25, "b": 0.5, "c": 1.0}] * 2,
    "by turns": [{"a": 1.0, "c": 0.5}] * 2 + [{"b": 1.0, "c": 0.5}] * 2 + [{"a": 1.0, "c": 0.5}] * 2,
}


def make_params() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(4, 3, generator=generator)) for name in NAMES}


def loss_of(params: Mapping[str, Tensor], step: int) -> Tensor:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
    return ((x @ params["a"]).tanh() @ params["b"].T @ params["c"]).square().mean()


def by_hand(phases: Phases) -> dict[str, Tensor]:
    """One unfused AdamW a parameter, thrown away when the parameter comes to a stop."""
    params = make_params()
    own: dict[str, torch.optim.AdamW] = {}
    for step, shares in enumerate(phases):
        grads = torch.autograd.grad(loss_of(params, step), [params[name] for name in shares])
        own = {name: own[name] for name in own if name in shares}
        for (name, share), grad in zip(shares.items(), grads, strict=True):
            if name not in own:
                own[name] = torch.optim.AdamW([params[name]], weight_decay=0.1, foreach=False, fused=False)
            own[name].param_groups[0]["lr"] = 0.01 * (step + 1) * share
            params[name].grad = grad
            own[name].step()
    return {name: param.detach() for name, param in params.items()}


@pytest.mark.parametrize("phases", PHASES.values(), ids=PHASES)
def test_the_same_numbers_by_hand(phases: Phases) -> None:
    params = make_params()
    optimizer = make_optimizer(params, OPTIONS)
    for step, shares in enumerate(phases):
        before = {name: param.detach().clone() for name, param in params.items()}
        moving = move(params, optimizer, shares)
        loss_of(params, step).backward()  # type: ignore[no-untyped-call]
        assert {id(param) for param in moving} == {id(params[name]) for name in shares}
        assert {name for name, param in params.items() if param.grad is not None} == set(shares)
        set_rate(optimizer, 0.01 * (step + 1))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for name, param in params.items():
            assert torch.equal(param, before[name]) == (name not in shares), name
    expected = by_hand(phases)
    for name, param in params.items():
        torch.testing.assert_close(param.detach(), expected[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("phases", PHASES.values(), ids=PHASES)
def test_memory_is_that_of_what_moves(phases: Phases) -> None:
    params = make_params()
    optimizer = make_optimizer(params, OPTIONS)
    for step, shares in enumerate(phases):
        move(params, optimizer, shares)
        loss_of(params, step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
        assert sum(moment.numel() for moment in moments) == 2 * 12 * len(shares)
        assert {id(param) for param in optimizer.state} == {id(params[name]) for name in shares}


def test_what_was_at_rest_starts_anew_and_what_was_not_goes_on() -> None:
    params = make_params()
    optimizer = make_optimizer(params, OPTIONS)
    for step, shares in enumerate(PHASES["by turns"]):
        move(params, optimizer, shares)
        loss_of(params, step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert [int(optimizer.state[params[name]]["step"]) for name in ("a", "c")] == [2, 6]
