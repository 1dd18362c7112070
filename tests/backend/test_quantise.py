"""Codes against the papers' formulas by hand, products and gradients against a float layer with the same weight."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ctxtune.backend.quantise import Quantised, describe, foreseen_bytes, quantisable, weight_bytes
from ctxtune.backend.skeleton import skeleton

from ..conftest import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ctxtune.backend.load import Base

QUANTS = ("int8", "nf4", "fp4")
# Dettmers et al. 2023, appendix E, and the sign, exponent and mantissa of fp4 as bitsandbytes documents them.
LEVELS = {
    "nf4": [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
        -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    "fp4": [sign * level / 12 for sign in (-1, 1) for level in (0, 0.0625, 2, 3, 4, 6, 8, 12)],
}  # fmt: skip


def by_hand(weight: Tensor, quant: str) -> Tensor:
    """The rounded weight, by the formulas."""
    if quant == "int8":
        scale = weight.abs().amax(1, keepdim=True)
        return (weight / scale * 127).round() * scale / 127
    blocks = weight.flatten().split(32)
    levels = torch.tensor(LEVELS[quant])
    done = []
    for block in blocks:
        largest = block.abs().max()
        nearest = (block[:, None] / largest - levels).abs().argmin(1)
        done.append(levels[nearest] * largest.bfloat16().float())
    return torch.cat(done).reshape(weight.shape)


@pytest.fixture
def weight() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(40, 48) * torch.logspace(-2, 1, 40)[:, None]


def test_a_weight_is_rounded_as_the_paper_says(weight: Tensor) -> None:
    layer = Quantised(weight, None, "int8")
    expected = by_hand(weight, "int8")
    wrong = (layer.float_weight() - expected).abs() > 1e-5 * weight.abs().amax(1, keepdim=True)
    assert wrong.float().mean() < 0.002  # numbers that lie between two levels may fall on either side
    assert not torch.allclose(expected, weight, rtol=1e-3)
    assert not any(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("quant", ["nf4", "fp4"])
def test_four_bits_are_the_levels_under_a_fitted_scale(quant: str, alike: bool, weight: Tensor) -> None:
    """Each block is levels times one scale, nearer than under its largest number, and not far from the best of 400 scales."""
    importance = torch.ones(48) if alike else torch.logspace(-1, 2, 48)[torch.randperm(48)]
    layer = Quantised(weight, None, quant, None if alike else importance)
    counts = importance.expand_as(weight).flatten().view(-1, 32)
    true, found = (one.flatten().view(-1, 32) for one in (weight, layer.float_weight()))
    levels = torch.tensor(LEVELS[quant])
    scales = layer.scales.float().view(-1, 1, 1)
    assert torch.allclose((levels * scales - found[..., None]).abs().amin(-1), torch.zeros(()), atol=1e-5)

    def errors(rounded: Tensor) -> Tensor:
        return (counts * (rounded - true).square()).sum(1)

    largest = true.abs().amax(1, keepdim=True)
    tried = []
    for share in [*torch.linspace(0.5, 1.5, 200), *torch.linspace(-1.5, -0.5, 200)]:
        scale = (largest * share).bfloat16().float()
        tried.append(errors(levels[(true[..., None] / scale[..., None] - levels).abs().argmin(-1)] * scale))
    plain = by_hand(weight, quant).flatten().view(-1, 32)
    assert errors(found).sum() < 0.95 * errors(plain).sum()
    best = torch.stack(tried).amin(0)
    assert (errors(found) / best).mean() < {"nf4": 1.25, "fp4": 1.5}[quant]
    assert (errors(found) / best).mean() < 0.95 * (errors(plain) / best).mean()


@pytest.mark.parametrize("quant", ["nf4", "fp4"])
def test_four_bits_are_nearer_than_blocks_of_64_with_float32_scales_in_the_same_room(quant: str) -> None:
    from bitsandbytes import functional

    weight = torch.randn(48, 576, generator=torch.manual_seed(0))
    codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type=quant)
    theirs = functional.dequantize_4bit(codes, state)
    layer = Quantised(weight, None, quant)
    assert layer.weight.nbytes + layer.scales.nbytes == codes.nbytes + state.absmax.nbytes
    assert (layer.float_weight() - weight).square().mean() < 0.95 * (theirs - weight).square().mean()


@pytest.mark.parametrize("kind", ["llama-tied", "bert-tied", "gpt2-tied"])
def test_values_stay_in_8_bits_where_they_lie_apart(kind: str, model_folders: dict[str, Path]) -> None:
    from ctxtune.backend.load import load_base

    base = load_base(model_folders[kind], "cpu", "nf4")
    stored = {name: module.quant for name, module in base.model.named_modules() if isinstance(module, Quantised)}
    values = {name for name, quant in stored.items() if quant == "int8"}
    assert values == {name for name in stored if name.endswith((".v_proj", ".value"))}
    assert len(values) == (0 if kind == "gpt2-tied" else 4)
    assert ("(4 of them, of values, in int8)" in base.device.reason) == bool(values)
    assert {quant for name, quant in stored.items() if name not in values} == {"nf4"}
    assert base.computes()["quant"] != "nf4"  # states kept of another rounding are not these


@pytest.mark.parametrize("quant", QUANTS)
def test_rows_of_zeros_and_odd_sizes(quant: str) -> None:
    weight = torch.randn(5, 7)
    weight[2] = 0
    layer = Quantised(weight, None, quant)
    assert layer.float_weight().shape == (5, 7)
    assert torch.isfinite(layer.float_weight()).all()
    if quant == "int8":
        assert (layer.float_weight()[2] == 0).all()


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_and_its_gradient_are_those_of_the_rounded_weight(
    quant: str, bias: bool, dtype: torch.dtype, weight: Tensor
) -> None:
    layer = Quantised(weight, nn.Parameter(torch.randn(40), requires_grad=False) if bias else None, quant).to(dtype)
    plain = nn.Linear(48, 40, bias=bias, dtype=dtype)
    plain.weight.data.copy_(layer.float_weight())
    if bias:
        plain.bias.data.copy_(layer.bias)
    ours, theirs = (torch.randn(3, 5, 48, dtype=dtype, generator=torch.manual_seed(1)) for _ in range(2))
    outputs = [module(x.requires_grad_()) for module, x in ((layer, ours), (plain, theirs))]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("quant", QUANTS)
def test_no_float_weight_is_kept_for_the_backward_pass(quant: str, weight: Tensor) -> None:
    layer = Quantised(weight, None, quant)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.randn(5, 48, requires_grad=True))
    assert kept == []


@pytest.mark.parametrize("quant", QUANTS)
def test_a_row_does_not_depend_on_its_neighbours(quant: str, weight: Tensor) -> None:
    layer = Quantised(weight, None, quant)
    x = torch.randn(6, 48, dtype=torch.float64)
    x[3] *= 1000  # LLM.int8() would spare columns for its sake
    alone = torch.cat([layer(row[None]) for row in x])
    torch.testing.assert_close(layer(x), alone, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer(x[:3]), alone[:3], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_quantised(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    found = quantisable(base.model, base.anatomy, ())
    linear = [name for name, module in base.model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    heads = {name for name in linear if name.startswith((base.anatomy.head + ".", base.anatomy.head))}
    assert sorted(found) == sorted(set(linear) - heads)
    first = base.anatomy.block_list(base.model)[0]
    moving = [f"{base.anatomy.blocks}.0.{name}" for name, _ in first.named_parameters() if name.endswith("bias")]
    assert len(quantisable(base.model, base.anatomy, moving)) < len(found) or not moving
    assert quantisable(base.model, base.anatomy, [name for name, _ in base.model.named_parameters()]) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quant", QUANTS)
def test_bytes_are_foreseen(kind: str, quant: str, model_folders: dict[str, Path]) -> None:
    from ctxtune.backend.load import load_base

    model, anatomy = skeleton(model_folders[kind])
    moving = [f"{anatomy.blocks}.3.{name}" for name, _ in anatomy.block_list(model)[3].named_parameters()]
    base = load_base(model_folders[kind], "cpu", quant, moving)
    assert foreseen_bytes(model, anatomy, quant, moving) == weight_bytes(base.model)
    assert weight_bytes(base.model) < foreseen_bytes(model, anatomy, "none", moving)
    assert base.parameters == sum(parameter.numel() for parameter in model.parameters())
    count = len(quantisable(model, anatomy, ()))
    assert f"{count * 3 // 4} of the {count} linear layers of the blocks in {quant}" in base.device.reason
    assert "so that none is quantised" in describe(load_base(model_folders[kind], "cpu").model, anatomy)


def test_the_library_is_loaded_when_it_is_asked_for_and_without_a_compiler() -> None:
    code = (
        "import sys, torch; from ctxtune.backend import quantise\n"
        "assert 'bitsandbytes' not in sys.modules; compiler = torch.compile\n"
        "quantise.Quantised(torch.ones(4, 64), None, 'nf4')\n"
        "assert 'bitsandbytes' in sys.modules and 'torch._inductor.lowering' not in sys.modules\n"
        "assert torch.compile is compiler\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
