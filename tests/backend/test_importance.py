"""What the inputs of linear layers are like, read block by block while a model is put together, beside hooks on the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.backend.importance import begin
from ctxtune.backend.load import load_base
from ctxtune.backend.quantise import Quantised, quantisable

from ..conftest import CHOICES, FAMILY_KINDS, HEADLESS_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base


@pytest.mark.parametrize("kind", [*FAMILY_KINDS, *HEADLESS_KINDS])
def test_block_by_block_as_in_one_forward(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    anatomy, model = base.anatomy, base.model
    names = quantisable(model, anatomy, ())
    reading, found = begin(model, anatomy), {}
    text = reading.text
    for index in range(len(anatomy.block_list(model))):
        found |= reading.through(index, [name for name in names if name.startswith(f"{anatomy.blocks}.{index}.")])
    said: dict[str, torch.Tensor] = {}
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: said.update({name: inputs[0].flatten(0, -2).square().mean(0)})
        )
    with torch.no_grad():
        model(input_ids=text)
    assert set(found) == set(said) == set(names)
    for name in names:
        torch.testing.assert_close(found[name], said[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "gemma3_text-tied", "bert-tied"])
def test_what_is_read_counts(
    kind: str, dtype: str, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer is rounded by the inputs that it has, in whatever type the run computes."""
    given: dict[str, torch.Tensor | None] = {}
    plain = Quantised.__init__

    def keep(
        layer: Quantised, weight: torch.Tensor, bias: Any, quant: str, importance: torch.Tensor | None, turned: bool
    ) -> None:
        given[str(len(given))] = importance
        assert importance is None or len(importance) == weight.shape[1]
        plain(layer, weight, bias, quant, importance, turned)

    monkeypatch.setattr(Quantised, "__init__", keep)
    base = load_base(model_folders[kind], "cpu", "nf4", dtype=dtype)
    assert given
    assert all(one is not None and one.dtype is torch.float32 and float(one.max()) > 0 for one in given.values())
    assert all(not isinstance(module, torch.nn.Linear) or not module.weight.is_meta for module in base.model.modules())


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "roberta-headless"])
def test_nothing_is_left_to_chance(kind: str, model_folders: dict[str, Path]) -> None:
    """Two of them have dropout, in training: a base is the same whatever was drawn before it was loaded."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(load_base(model_folders[kind], "cpu", "nf4", classes=CHOICES).model.state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
