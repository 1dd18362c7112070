"""Fused parts compute what the plain ones do, forwards and backwards, and leave no trace."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.backend.device import Device
from ctxtune.backend.fused import fused
from ctxtune.backend.newborn import make_model
from ctxtune.recipe.pretrain import Pretrain

if TYPE_CHECKING:
    from torch import nn

CPU = Device("cpu", torch.float32, "a test")
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2]])
PARTS = {"llama": 2 * 2 + 1 + 1, "qwen3": 2 * 4 + 1 + 1, "gpt2": 0, "neox": 1}
"""norms and rotations; GPT-NeoX turns a quarter of each head"""


def made(arch: str) -> Any:
    model, _ = make_model(Pretrain(name="pretrain", arch=arch, depth=2, row=32), 50, 0, seed=1)
    model.double()
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn(param.shape, generator=torch.Generator().manual_seed(param.numel())) * 0.2)
    return model


def gradients(model: nn.Module, loss: Any) -> dict[str, Any]:
    model.zero_grad()
    loss.backward()
    return {name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None}


@pytest.mark.parametrize("arch", PARTS)
def test_numbers_and_gradients_stay(arch: str) -> None:
    model = made(arch)
    plain = model(IDS, labels=IDS)
    expected = gradients(model, plain.loss)
    with fused(model, CPU) as count:
        assert count == PARTS[arch]
        ours = model(IDS, labels=IDS)
        found = gradients(model, ours.loss)
    torch.testing.assert_close(ours.logits, plain.logits, rtol=1e-5, atol=1e-5)  # its own norms are float32
    assert set(found) == set(expected)
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-5)


def test_positions_that_start_anew_are_turned_as_they_are() -> None:
    model = made("llama")
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3]] * 2)
    plain = model(input_ids=IDS, position_ids=positions, use_cache=False).logits
    with fused(model, CPU):
        ours = model(input_ids=IDS, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_afterwards_everything_is_as_it_was() -> None:
    model = made("llama")
    place = sys.modules[type(model).__module__]
    own = place.apply_rotary_pos_emb
    with fused(model, CPU):
        assert place.apply_rotary_pos_emb is not own
    assert place.apply_rotary_pos_emb is own
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("device", [Device("cpu", torch.bfloat16, "a test"), Device("cuda", torch.float32, "a test")])
def test_elsewhere_nothing_is_replaced(device: Device) -> None:
    with fused(made("llama"), device) as count:
        assert count == 0
