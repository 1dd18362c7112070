"""Schedule-free AdamW beside the paper's equations in double precision, its mean, and what of it a checkpoint holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from ctxtune.engine.checkpoint import read_checkpoint, write_checkpoint
from ctxtune.engine.optimizer import make_optimizer, move, set_rate
from ctxtune.engine.schedule_free import ScheduleFree, averaged, end
from ctxtune.recipe.schema import Train

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

RATES = [0.01, 0.02, 0.03, 0.03, 0.03, 0.03]
DECAY = 0.1


def gradient(at: Tensor, step: int) -> Tensor:
    """Of some curved loss, another one in each step."""
    generator = torch.Generator().manual_seed(step)
    return at.detach() ** 3 + torch.randn(at.shape, generator=generator, dtype=torch.float64).to(at.dtype)


def by_hand(start: Tensor, rates: list[float]) -> tuple[Tensor, Tensor]:
    """Algorithm 1 of the paper, with x itself: what gradients would be taken at next, and the mean."""
    x, z, v, total = start.clone(), start.clone(), torch.zeros_like(start), 0.0
    for step, lr in enumerate(rates):
        y = 0.1 * z + 0.9 * x
        g = gradient(y, step)
        v = 0.999 * v + 0.001 * g**2
        z = z - lr * g / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8) - lr * DECAY * y
        total += lr**2
        x = (1 - lr**2 / total) * x + lr**2 / total * z
    return 0.1 * z + 0.9 * x, x


def start_of(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


def made(dtype: torch.dtype = torch.float64) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    params = {"w": nn.Parameter(start_of(dtype)), "other": nn.Parameter(start_of(dtype) + 1)}
    return params, make_optimizer(params, Train(optimizer="schedule_free", schedule="constant", weight_decay=DECAY))


def take(
    params: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, steps: range, names: tuple[str, ...] = ("w",)
) -> None:
    for step in steps:
        for param in move(params, optimizer, dict.fromkeys(names, 1.0)):
            param.grad = gradient(param, step)
        set_rate(optimizer, RATES[step])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def test_the_steps_and_the_mean_are_those_of_the_paper() -> None:
    params, optimizer = made()
    take(params, optimizer, range(6))
    y, x = by_hand(start_of(), RATES)
    torch.testing.assert_close(params["w"].detach(), y, rtol=0, atol=1e-13)
    with averaged(optimizer):
        torch.testing.assert_close(params["w"].detach(), x, rtol=0, atol=1e-13)
    assert (x - y).abs().max() > 1e-3


def test_to_look_at_the_mean_changes_nothing() -> None:
    params, optimizer = made(torch.float32)
    take(params, optimizer, range(3))
    before = params["w"].detach().clone()
    with averaged(optimizer):
        mean = params["w"].detach().clone()
    assert torch.equal(params["w"], before)
    take(params, optimizer, range(3, 6))
    once, other = made(torch.float32)
    take(once, other, range(6))
    assert torch.equal(params["w"], once["w"])
    assert not torch.equal(mean, before)


def test_even_where_scoring_fails_they_learn_on_as_before() -> None:
    params, optimizer = made()
    take(params, optimizer, range(3))
    before = params["w"].detach().clone()
    with pytest.raises(ZeroDivisionError), averaged(optimizer):
        raise ZeroDivisionError
    assert torch.equal(params["w"], before)
    assert set(optimizer.state) == {params["w"]}


def test_a_checkpoint_holds_all_of_it(tmp_path: Path) -> None:
    params, optimizer = made(torch.float32)
    take(params, optimizer, range(3))
    write_checkpoint(tmp_path / "c", params, optimizer, {})
    take(params, optimizer, range(3, 6))
    again, other = made(torch.float32)
    take(again, other, range(1))
    read_checkpoint(tmp_path / "c", again, other)
    take(again, other, range(3, 6))
    end(optimizer)
    end(other)
    assert torch.equal(params["w"], again["w"])


def test_what_comes_to_a_stop_stays_at_its_mean() -> None:
    params, optimizer = made()
    take(params, optimizer, range(4), ("w", "other"))
    take(params, optimizer, range(4, 6), ("other",))
    _, x = by_hand(start_of(), RATES[:4])
    torch.testing.assert_close(params["w"].detach(), x, rtol=0, atol=1e-13)
    assert set(optimizer.state) == {params["other"]}


def test_a_share_of_the_rate_is_another_rate() -> None:
    params, optimizer = made()
    for step in range(6):
        for param in move(params, optimizer, {"w": 0.5}):
            param.grad = gradient(param, step)
        set_rate(optimizer, RATES[step])
        optimizer.step()
    end(optimizer)
    _, x = by_hand(start_of(), [rate / 2 for rate in RATES])
    torch.testing.assert_close(params["w"].detach(), x, rtol=0, atol=1e-13)


def test_at_a_rate_of_nothing_nothing_moves() -> None:
    params, optimizer = made()
    params["w"].grad = gradient(params["w"], 0)
    set_rate(optimizer, 0.0)
    optimizer.step()
    assert torch.equal(params["w"], start_of())


def test_other_optimisers_have_no_mean() -> None:
    params = {"w": nn.Parameter(start_of())}
    optimizer = make_optimizer(params, Train())
    take(params, optimizer, range(2))
    before = params["w"].detach().clone()
    with averaged(optimizer):
        assert torch.equal(params["w"], before)
    end(optimizer)
    assert torch.equal(params["w"], before)
    assert not isinstance(optimizer, ScheduleFree)
