"""Muon beside torch's own, and AdamW for what is no matrix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctxtune.engine.muon import Muon, orthogonal


def grads(params: list[nn.Parameter], step: int) -> None:
    for number, param in enumerate(params):
        generator = torch.Generator().manual_seed(100 * step + number)
        param.grad = torch.randn(param.shape, generator=generator)


def made() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((12, 20), (20, 12), (12, 20), (7, 9), (12,), (30, 12))]


def test_singular_values_come_near_one() -> None:
    torch.manual_seed(0)
    found = torch.linalg.svdvals(orthogonal(torch.randn(5, 16, 40)))
    assert found.min() > 0.6
    assert found.max() < 1.3


def test_the_directions_of_a_matrix_stay() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(1, 6, 10)
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    inner = left.T @ orthogonal(matrix)[0] @ right.T
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-4


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_matrices_move_as_by_torch(decay: float) -> None:
    """torch computes the directions in bfloat16: what lies between is its rounding."""
    ours, theirs = made()[:4], made()[:4]
    muon = Muon([{"params": ours, "lr": 0.02}], ours, decay)
    torchs = torch.optim.Muon(theirs, lr=0.02, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    start = [param.detach().clone() for param in ours]
    for step in range(5):
        grads(ours, step)
        grads(theirs, step)
        muon.step()
        torchs.step()
    for one, other, begun in zip(ours, theirs, start, strict=True):
        gap = (one - other).norm() / (other - begun).norm()
        assert gap < 0.02


def test_the_rest_moves_as_by_adamw() -> None:
    ours, theirs = made(), made()
    muon = Muon([{"params": ours, "lr": 0.01}], ours[:4], 0.1)
    adamw = torch.optim.AdamW(theirs[4:], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for step in range(4):
        grads(ours, step)
        grads(theirs, step)
        muon.step()
        adamw.step()
    assert all(torch.equal(a, b) for a, b in zip(ours[4:], theirs[4:], strict=True))


def test_a_group_moves_at_its_own_rate() -> None:
    params = made()
    start = [param.detach().clone() for param in params]
    muon = Muon([{"params": params[:1], "lr": 0.01}, {"params": params[1:], "lr": 0.0}], params[:4], 0.1)
    grads(params, 0)
    muon.step()
    assert not torch.equal(params[0], start[0])
    assert all(torch.equal(one, before) for one, before in zip(params[1:], start[1:], strict=True))


def test_what_has_no_gradient_stays() -> None:
    params = made()
    before = params[1].detach().clone()
    muon = Muon([{"params": params, "lr": 0.01}], params[:4], 0.1)
    grads(params, 0)
    params[1].grad = None
    muon.step()
    assert torch.equal(params[1], before)
    assert params[1] not in muon.state
