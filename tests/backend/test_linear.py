"""oneDNN's products against float64, and models that stay as they are while they use them."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from ctxtune.backend import linear as linear_file
from ctxtune.backend.linear import linear, onednn_is_faster, quicken

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="this torch carries no oneDNN",
)
SHAPES = {
    "a row": (1, 5),
    "a matrix": (7, 5),
    "a batch": (2, 3, 5),
    "four axes": (2, 2, 3, 5),
    "none": (0, 5),
    "no row": (2, 0, 5),
}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(x: Tensor, weight: Tensor, bias: Tensor | None, product: Callable[..., Tensor] = linear) -> None:
    """Value and all gradients within float32's rounding of what float64 gives."""
    wanted = [tensor for tensor in (x, weight, bias) if tensor is not None and tensor.requires_grad]
    found = product(x, weight, bias)
    exact = [
        None if tensor is None else tensor.detach().double().requires_grad_(tensor.requires_grad)
        for tensor in (x, weight, bias)
    ]
    reference = nn.functional.linear(exact[0], exact[1], exact[2])  # type: ignore[arg-type]
    assert found.shape == reference.shape
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), reference, rtol=1e-5, atol=1e-5)
    if not wanted:
        assert not found.requires_grad
        return
    pull = numbers(*found.shape, seed=9)
    ours = torch.autograd.grad((found * pull).sum(), wanted)
    theirs = torch.autograd.grad(
        (reference * pull.double()).sum(), [t for t in exact if t is not None and t.requires_grad]
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trains", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 1, 1), (1, 1, 1), (1, 0, 1)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [shape for name, shape in SHAPES.items() if not name.startswith("no")])
def test_value_and_gradients(shape: tuple[int, ...], with_bias: bool, trains: tuple[int, int, int]) -> None:
    x, weight = numbers(*shape), numbers(11, 5, seed=1)
    bias = numbers(11, seed=2) if with_bias else None
    for tensor, train in zip((x, weight, bias), trains, strict=True):
        if tensor is not None:
            tensor.requires_grad_(bool(train))
    check(x, weight, bias)


@pytest.mark.parametrize("size", [(64, 576, 1536), (1, 1536, 576), (33, 31, 1)])
def test_sizes_of_real_layers(size: tuple[int, int, int]) -> None:
    m, k, n = size
    x, weight = numbers(m, k).requires_grad_(), (numbers(n, k, seed=1) / k**0.5).requires_grad_()
    check(x, weight, None)


def test_input_that_is_not_contiguous() -> None:
    weight, bias = numbers(11, 5, seed=1).requires_grad_(), numbers(11, seed=2).requires_grad_()
    for x in (numbers(5, 7).t(), numbers(3, 2, 5).transpose(0, 1), numbers(7, 10)[:, ::2], numbers(1, 5).expand(4, 5)):
        assert not x.is_contiguous()
        check(x.detach().requires_grad_(), weight, bias)


def test_weight_that_is_not_contiguous() -> None:
    check(numbers(7, 5).requires_grad_(), numbers(5, 11).t().requires_grad_(), None)


def test_gradient_that_is_not_contiguous() -> None:
    x, weight = numbers(4, 6, 5).requires_grad_(), numbers(11, 5, seed=1).requires_grad_()
    check(x, weight, None, lambda *given: linear(*given).transpose(0, 1).transpose(0, 1))
    linear(x, weight).sum().backward()  # type: ignore[no-untyped-call]  # an expanded gradient
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.detach().sum(0).expand(4, 6, 5))


def test_no_graph_without_gradients() -> None:
    x, weight = numbers(7, 5), numbers(11, 5).requires_grad_()
    with torch.no_grad():
        assert not linear(x, weight).requires_grad
    with torch.inference_mode():
        assert not linear(x, weight).requires_grad


def test_a_frozen_weight_keeps_no_input() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        linear(numbers(700, 5).requires_grad_(), numbers(11, 5))
    assert [tuple(tensor.shape) for tensor in kept] == [(11, 5)]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if on a processor where oneDNN is faster."""
    monkeypatch.setattr(linear_file, "onednn_is_faster", lambda: True)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.LayerNorm(8), nn.Linear(8, 3))


@pytest.mark.usefixtures("always")
def test_quickened_models_keep_their_names_and_numbers() -> None:
    ours, theirs = model(), model()
    assert quicken(ours)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    ours.load_state_dict(theirs.state_dict())
    assert [type(module) for module in ours.modules()] == [type(module) for module in theirs.modules()]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_quickened_models_say_the_same(shape: tuple[int, ...]) -> None:
    ours, theirs = model(), model()
    quicken(ours)
    x = numbers(*shape)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, reference = ours(one), theirs(other)
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, their.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("always")
def test_quickened_layers_follow_new_parameters() -> None:
    """Attaching an adapter exchanges parameters: the layer must compute with those it has now."""
    layer = nn.Linear(5, 3)
    quicken(layer)
    layer.weight = nn.Parameter(torch.zeros(3, 5))
    layer.bias = nn.Parameter(torch.ones(3))
    assert torch.equal(layer(numbers(2, 5)), torch.ones(2, 3))
    replaced = torch.func.functional_call(
        layer, {"weight": torch.zeros(3, 5), "bias": torch.full((3,), 2.0)}, numbers(2, 5)
    )
    assert torch.equal(replaced, torch.full((2, 3), 2.0))


@pytest.mark.usefixtures("always")
def test_other_types_take_the_usual_way() -> None:
    layer = nn.Linear(5, 3)
    quicken(layer)
    layer.double()
    x = numbers(2, 5).double()
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.usefixtures("always")
def test_a_shared_module_that_is_no_plain_linear_stays() -> None:
    class Own(nn.Linear):
        pass

    layer = Own(5, 3)
    quicken(layer)
    assert "forward" not in vars(layer)


def test_where_torch_is_fast_enough_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_file, "onednn_is_faster", lambda: False)
    layer = nn.Linear(5, 3)
    assert not quicken(layer)
    assert "forward" not in vars(layer)


@pytest.mark.parametrize(("machine", "capability", "faster"), [("aarch64", "AVX512", False), ("x86_64", "AVX2", False)])
def test_other_processors_are_left_alone(
    machine: str, capability: str, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    answers = (onednn_is_faster, linear_file._foreign_to_mkl)
    for answer in answers:
        answer.cache_clear()
    try:
        assert onednn_is_faster() is faster
    finally:
        for answer in answers:
            answer.cache_clear()


def test_a_wide_head_alone_goes_through_onednn_without_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head over a vocabulary is read from memory: there the two libraries differ on every foreign processor."""
    monkeypatch.setattr(linear_file, "onednn_is_faster", lambda: False)
    monkeypatch.setattr(linear_file, "_foreign_to_mkl", lambda: True)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, linear_file.WIDE))
    x = numbers(2, 4)
    with torch.no_grad():
        before = model(x)
        assert not quicken(model)
        assert ["forward" in vars(layer) for layer in model] == [False, True]
        torch.testing.assert_close(model(x), before)


def test_empty_products() -> None:
    """The bare product is never asked for one; a layer of a model may be."""
    layer = nn.Linear(5, 3)
    linear_file._forward(layer, torch.zeros(0, 5)).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(layer.weight.grad, torch.zeros(3, 5))  # type: ignore[arg-type]


def test_plans_of_a_few_shapes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """By oneDNN and by torch, each of which would keep 1,024; who asks for another number gets it."""
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    quicken(nn.Linear(2, 2))
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(linear_file.PLANS)
