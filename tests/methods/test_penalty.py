"""What changes cost beside the loss, against autograd through both and against where their sum is least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.engine.loop import take_step
from ctxtune.engine.optimizer import make_optimizer
from ctxtune.errors import RecipeError
from ctxtune.methods.penalty import Penalty
from ctxtune.recipe.load import load
from ctxtune.recipe.schema import Train

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(8, generator=torch.Generator().manual_seed(1))


class Squares:
    """(x D - y)^2 of eight rows."""

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat

    def tokens(self, batch: Sequence[int]) -> int:
        return len(batch)

    def parts(self, batch: Sequence[int], rows: int | None) -> list[list[int]]:
        rows = rows or len(batch)
        return [list(batch[first : first + rows]) for first in range(0, len(batch), rows)]

    def loss(self, part: Sequence[int]) -> Tensor:
        return (X[part] @ self.flat - Y[part]).square().sum()

    def losses(self, batch: Sequence[int]) -> list[float]:
        return [float(self.loss([i])) for i in batch]


def learned(penalty: tuple[int, float, float], options: Train, steps: int, lr: float = 1e-2) -> Tensor:
    flat = torch.nn.Parameter(torch.zeros(6))
    optimizer = make_optimizer({"delta": flat}, options)
    for step in range(steps):
        cost = Penalty(flat, *penalty)
        take_step([flat], optimizer, Squares(flat), range(8), lr / (1 + step / 100), options, cost)
    return flat.detach()


@pytest.mark.parametrize("rows", [None, 1, 3])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_l2_is_a_part_of_the_loss(rows: int | None, clip: float | None) -> None:
    """Once a step, in however many parts it is taken: a loss that has it as a term learns the same by torch alone."""
    flat = torch.nn.Parameter(torch.zeros(6))
    optimizer = torch.optim.AdamW([flat], lr=1e-2, weight_decay=0.1)
    for _ in range(20):
        optimizer.param_groups[0]["lr"] = 1e-2
        (Squares(flat).loss(range(8)) / 8 + 3.0 / 2 * flat[:4].square().sum()).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_([flat], clip)
        optimizer.step()
        optimizer.zero_grad()
    found = torch.nn.Parameter(torch.zeros(6))
    options = Train(weight_decay=0.1, clip=clip, micro_batch=rows)
    other = make_optimizer({"delta": found}, options)
    for _ in range(20):
        take_step([found], other, Squares(found), range(8), 1e-2, options, Penalty(found, 4, 3.0, 0.0))
    assert torch.allclose(found, flat, atol=1e-6)
    free = learned((4, 0.0, 0.0), options, 20)
    assert (free - found).abs().max() > 1e-3


def test_l1_ends_where_loss_and_cost_are_least() -> None:
    """By FISTA, to convergence: exactly the same numbers are 0, and the others have the same values."""
    dear, rate = 0.4, 1 / float(torch.linalg.eigvalsh(2 * X.T @ X / 8).max())
    best = torch.zeros(6)
    for _ in range(3000):
        nearer = best - rate * 2 * X.T @ (X @ best - Y) / 8
        best = nearer.sign() * (nearer.abs() - rate * dear).clamp(min=0)
    found = learned((6, 0.0, dear), Train(clip=None), 600)
    assert 0 < int((best == 0).sum()) < 6
    assert torch.equal(found == 0, best == 0)
    assert torch.allclose(found, best, atol=2e-3)


def test_l1_after_one_step() -> None:
    """AdamW's step, then as far again towards 0 as a gradient so large would have gone by the same measure."""
    options = Train(clip=0.5)
    flat = torch.nn.Parameter(X[0].clone())
    optimizer = torch.optim.AdamW([flat], lr=0.1, weight_decay=0.0)
    (Squares(flat).loss(range(8)) / 8).backward()
    cut = min(1.0, 0.5 / float(flat.grad.norm()))
    assert cut < 1
    torch.nn.utils.clip_grad_norm_([flat], 0.5)
    gradient = flat.grad.clone()
    optimizer.step()
    near = 0.1 * 0.02 * cut / (gradient.abs() + 1e-8)
    expected = flat.detach().sign() * (flat.detach().abs() - near).clamp(min=0)
    expected[4:] = flat.detach()[4:]
    found = torch.nn.Parameter(X[0].clone())
    take_step([found], make_optimizer({"delta": found}, options), Squares(found), range(8), 0.1, options,
              Penalty(found, 4, 0.0, 0.02))  # fmt: skip
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, flat, atol=1e-3)


@pytest.mark.parametrize("key", ["l2", "l1"])
@pytest.mark.parametrize("cost", [-1.0, float("inf"), "much"])
def test_a_cost_that_is_none(key: str, cost: object) -> None:
    with pytest.raises(RecipeError, match=rf"method\.{key}") as caught:
        load(None, {"model": "m", "data.train": "rows.jsonl", "method.name": "mask", f"method.{key}": cost})
    assert "\n" not in str(caught.value)
