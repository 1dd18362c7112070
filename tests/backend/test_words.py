"""Embeddings and heads in 16 bits against float copies of them: equal logits, gradients, and the bytes that were foreseen."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctxtune.backend import assemble, words
from ctxtune.backend.load import load_base
from ctxtune.backend.quantise import foreseen_bytes, weight_bytes
from ctxtune.backend.skeleton import skeleton

from ..conftest import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IDS = torch.arange(5, 53).reshape(3, 16)
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture
def in_half(model_folders: dict[str, Path], tmp_path: Path) -> Callable[[str, str], Path]:
    def make(kind: str, dtype: str) -> Path:
        folder = shutil.copytree(model_folders[kind], tmp_path / f"{kind} {dtype}")
        tensors = load_file(folder / "model.safetensors")
        halved = {name: tensor.to(HALVES[dtype]) for name, tensor in tensors.items()}
        save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def float_copy(folder: Path, monkeypatch: pytest.MonkeyPatch, quant: str) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(assemble, "keep_words", lambda *_: set())
        return load_base(folder, "cpu", quant).model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "quant"), [("bfloat16", "nf4"), ("float16", "int8")])
def test_logits_are_those_of_a_float_copy(
    kind: str, dtype: str, quant: str, in_half: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = in_half(kind, dtype)
    monkeypatch.setattr(words, "WORDS", 100)  # several blocks, the last one smaller
    plain = float_copy(folder, monkeypatch, quant)
    base: Any = load_base(folder, "cpu", quant)
    with torch.no_grad():
        torch.testing.assert_close(base.model(input_ids=IDS).logits, plain(input_ids=IDS).logits, rtol=0, atol=0)
    model, anatomy = skeleton(folder)
    words.keep_words(model, folder, ())
    assert foreseen_bytes(model, anatomy, quant, ()) == weight_bytes(base.model) <= weight_bytes(plain)


@pytest.mark.parametrize(("kind", "kept"), [("llama-tied", 2), ("gpt2-untied", 2), ("bert-tied", 0)])
def test_what_is_kept_and_what_is_not(kind: str, kept: int, in_half: Callable[[str, str], Path]) -> None:
    folder = in_half(kind, "bfloat16")

    def half(*moving: str, quant: str = "nf4") -> list[str]:
        every = load_base(folder, "cpu", quant, moving).model.named_parameters(remove_duplicate=False)
        return [name for name, parameter in every if parameter.dtype is torch.bfloat16]

    names = half()
    assert len(names) == kept
    assert half(quant="none") == []
    if kept:
        others = half(names[0])
        assert others == ([] if kind.endswith("-tied") else names[1:])


def test_the_gradient_is_that_of_a_float_copy(
    in_half: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = in_half("llama-tied", "bfloat16")
    monkeypatch.setattr(words, "WORDS", 100)
    grads = []
    for model in (load_base(folder, "cpu", "nf4").model, float_copy(folder, monkeypatch, "nf4")):
        hidden = torch.randn(2, 5, model.config.hidden_size, generator=torch.manual_seed(0)).requires_grad_()
        model.get_submodule("lm_head")(hidden).square().sum().backward()
        grads.append(hidden.grad)
    torch.testing.assert_close(*grads)
