"""Models in 16 bits: transformers' own numbers bit for bit, whether a parameter moves or not, and float32 where it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.backend.load import load_base
from ctxtune.backend.precision import kept_wide

from ..conftest import CHOICES

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.arange(5, 25)[None]
FAMILIES = ("llama-tied", "gpt2-untied", "bert-tied", "gemma3_text-tied", "opt-projected-tied", "gpt_neox-untied")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=IDS).logits
    return result


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_numbers_of_transformers(kind: str, dtype: str, model_folders: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    loader = AutoModelForMaskedLM if kind.startswith("bert") else AutoModelForCausalLM
    expected = logits(loader.from_pretrained(model_folders[kind], dtype=getattr(torch, dtype)).eval())
    assert expected.dtype is getattr(torch, dtype)
    frozen = load_base(model_folders[kind], "cpu", dtype=dtype)
    assert {parameter.dtype for parameter in frozen.model.parameters()} == {expected.dtype}
    names = [name for name, _ in frozen.model.named_parameters()]
    for moving in ((), names, names[::3]):
        assert torch.equal(logits(load_base(model_folders[kind], "cpu", moving=moving, dtype=dtype).model), expected)


def test_what_moves_keeps_the_bits_of_the_file(model_folders: dict[str, Path]) -> None:
    plain = dict(load_base(model_folders["llama-tied"], "cpu").model.named_parameters(remove_duplicate=False))
    moving = ["model.layers.3.mlp.up_proj.weight", "model.embed_tokens.weight"]
    base = load_base(model_folders["llama-tied"], "cpu", moving=moving, dtype="bfloat16")
    wide = {*moving, "lm_head.weight"}  # which is the embeddings' own
    assert kept_wide(base.model, moving) == wide
    for name, parameter in base.model.named_parameters(remove_duplicate=False):
        expected = plain[name] if name in wide else plain[name].to(torch.bfloat16)
        assert torch.equal(parameter, expected), name
    assert base.model.get_parameter("lm_head.weight") is base.model.get_parameter("model.embed_tokens.weight")


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-untied"])
def test_gradients_are_those_of_the_rounded_model_in_float32(kind: str, model_folders: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    theirs: Any = AutoModelForCausalLM.from_pretrained(model_folders[kind], dtype=torch.bfloat16).eval()
    names = [name for name, _ in theirs.named_parameters() if ".3." in name]
    ours: Any = load_base(model_folders[kind], "cpu", moving=names, dtype="bfloat16").model
    for model in (theirs, ours):
        for name in names:
            model.get_parameter(name).requires_grad_(True)
        model(input_ids=IDS, labels=IDS).loss.float().backward()
    for name in names:
        found, expected = ours.get_parameter(name).grad, theirs.get_parameter(name).grad
        assert (found.dtype, expected.dtype) == (torch.float32, torch.bfloat16)
        assert torch.equal(found, expected.float()), name


@pytest.mark.parametrize("quant", ["int8", "nf4"])
def test_quantised_layers_compute_in_the_type(quant: str, model_folders: dict[str, Path]) -> None:
    """A layer's product is that of its rounded weight in float32, but for the type: 8 bits of a number are right."""
    pytest.importorskip("bitsandbytes")
    for kind in ("llama-untied", "gpt2-tied"):
        wide = load_base(model_folders[kind], "cpu", quant)
        base = load_base(model_folders[kind], "cpu", quant, dtype="bfloat16")
        told = logits(base.model)
        assert told.dtype is torch.bfloat16
        expected = logits(wide.model)
        assert (told.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_classifier_of_an_encoder(model_folders: dict[str, Path]) -> None:
    """Its head is drawn anew in float32, and is the same in every type but for rounding."""
    kind = "roberta-headless"
    wide, base = (load_base(model_folders[kind], "cpu", classes=CHOICES, dtype=dtype) for dtype in ("auto", "bfloat16"))
    other = dict(base.model.named_parameters())
    for name, parameter in wide.model.named_parameters():
        assert torch.equal(parameter.to(torch.bfloat16), other[name])
