"""What a token costs is what torch counts, and the machine's rate is one that products reach."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ctxtune.backend.device import Device
from ctxtune.backend.flop import flop_a_token, product_rate
from ctxtune.backend.newborn import make_model
from ctxtune.recipe.pretrain import Pretrain


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gpt2", "neox"])
def test_the_products_of_a_step_are_counted(arch: str) -> None:
    model, anatomy = make_model(Pretrain(name="pretrain", arch=arch, depth=2, row=64), 300, 0, seed=0)
    ids = torch.randint(0, 300, (4, 64))
    counter = FlopCounterMode(display=False)
    with counter:
        model(ids, labels=ids, use_cache=False).loss.backward()
    ours = flop_a_token(model, anatomy, 64) * ids.numel()
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.12)  # it counts attention to all tokens of a row


def test_the_rate_is_one_that_products_reach() -> None:
    rate = product_rate(Device("cpu", torch.float32, "a test"))
    matrix = torch.ones(1024, 1024)
    took = []
    for _ in range(10):
        begun = time.perf_counter()
        matrix @ matrix
        took.append(time.perf_counter() - begun)
    assert 0.2 < rate / (2 * 1024**3 / min(took)) < 5
