"""Rows that learn together, beside the sum of two matrices that torch's AdamW moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from ctxtune.data.spelling import Spelling
from ctxtune.engine.alike import Alike
from ctxtune.engine.checkpoint import read_checkpoint, write_checkpoint
from ctxtune.engine.optimizer import make_optimizer, set_rate
from ctxtune.recipe.schema import Train

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TEXTS = [None, " cat", "Cat", "cats", " dog", "dog", "catalog", "§"]
WIDTH = 5
SPELLING = Spelling.of(TEXTS)
MUON = Train(optimizer="muon", weight_decay=0.0)


def by_hand() -> Tensor:
    """N F, one token after the other."""
    shares = torch.zeros(len(TEXTS), SPELLING.count)
    for token in range(len(TEXTS)):
        some = SPELLING.features[SPELLING.bounds[token] : SPELLING.bounds[token + 1]]
        if len(some):
            shares[token, some] = len(some) ** -0.5
    return shares


def start() -> Tensor:
    return torch.randn(len(TEXTS), WIDTH, generator=torch.Generator().manual_seed(0))


def loss_of(matrix: Tensor, step: int) -> Tensor:
    """Of some rows only, others at each step."""
    generator = torch.Generator().manual_seed(step)
    goal = torch.randn(len(TEXTS), WIDTH, generator=generator)
    return (matrix - goal)[torch.randint(len(TEXTS), (4,), generator=generator)].square().sum()


def learn(steps: int, optimizer: torch.optim.Optimizer, param: nn.Parameter, first: int = 0) -> None:
    for step in range(first, first + steps):
        set_rate(optimizer, 0.01 * (step + 1))
        optimizer.zero_grad()
        loss_of(param, step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def ours(options: Train = MUON) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    param = nn.Parameter(start())
    return param, make_optimizer({"w": param}, options, (), {"w": Alike(SPELLING, "cpu")})


def test_the_products_are_those_of_the_matrix() -> None:
    alike, shares = Alike(SPELLING, "cpu"), by_hand()
    down, up = torch.randn(SPELLING.count, WIDTH), torch.randn(len(TEXTS), WIDTH)
    torch.testing.assert_close(alike.down(down), shares @ down)
    torch.testing.assert_close(alike.up(up), shares.T @ up)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_it_moves_as_the_sum_of_two(name: str) -> None:
    options = Train(optimizer="muon" if name == "muon" else "adamw", weight_decay=0.0)
    param, optimizer = ours(options)
    learn(6, optimizer, param)
    own, shared, shares = nn.Parameter(start()), nn.Parameter(torch.zeros(SPELLING.count, WIDTH)), by_hand()
    torchs = [
        torch.optim.AdamW([own], betas=(0.9, 0.95 if name == "muon" else 0.999), weight_decay=0.0),
        torch.optim.AdamW([shared], betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for step in range(6):
        for one in torchs:
            one.param_groups[0]["lr"] = 0.01 * (step + 1)
            one.zero_grad()
        loss_of(own + shares @ shared, step).backward()  # type: ignore[no-untyped-call]
        for one in torchs:
            one.step()
    torch.testing.assert_close(param.detach(), (own + shares @ shared).detach(), atol=2e-6, rtol=0)


def test_what_one_token_learns_others_know() -> None:
    param, optimizer = ours()
    set_rate(optimizer, 0.1)
    param[1].sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved = (param.detach() - start()).abs().amax(1)
    assert moved[0] == 0  # no text
    assert moved[1] > moved[3] > moved[4] > 0  # " cat" itself, "cats", " dog"


def test_at_a_rate_of_nothing_nothing_moves() -> None:
    param, optimizer = ours()
    set_rate(optimizer, 0.0)
    loss_of(param, 0).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert torch.equal(param, start())


def test_its_moments_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    calm, optimizer = ours()
    learn(6, optimizer, calm)
    param, optimizer = ours()
    learn(3, optimizer, param)
    write_checkpoint(tmp_path / "last.safetensors", {"w": param}, optimizer, {"loop": {"step": 3}})
    again, optimizer = ours()
    read_checkpoint(tmp_path / "last.safetensors", {"w": again}, optimizer)
    assert optimizer.state[again].keys() >= {"alike", "alike_sq"}
    learn(3, optimizer, again, first=3)
    assert torch.equal(calm, again)


def test_its_moments_come_to_the_device_of_the_matrix(tmp_path: Path) -> None:
    param, optimizer = ours()
    learn(1, optimizer, param)
    write_checkpoint(tmp_path / "last.safetensors", {"w": param}, optimizer, {"loop": {"step": 1}})
    elsewhere = nn.Parameter(start().to("meta"))
    optimizer = make_optimizer({"w": elsewhere}, MUON)
    read_checkpoint(tmp_path / "last.safetensors", {"w": elsewhere}, optimizer)
    assert optimizer.state[elsewhere].keys() >= {"alike", "exp_avg", "step"}
    assert {one.device.type for one in optimizer.state[elsewhere].values()} == {"meta"}
