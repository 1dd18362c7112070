"""Attaching gives the adapted model, detaching the base, bit for bit; LoRA folders of PEFT mean what they mean there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.adapter.attach import attach, attached
from ctxtune.adapter.read import open_adapter
from ctxtune.errors import AdapterError

from .conftest import KINDS, build, logits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from .conftest import Made

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's own


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone().view(torch.uint8) for name, p in model.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("part", ["last", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_attach_and_detach(kind: str, part: str, dtype: torch.dtype, make: Callable[..., Made]) -> None:
    made = make(kind, part, dtype)
    model = build(kind, dtype=dtype)
    before, names = bits(model), dict(model.named_parameters())
    taken = attach(model, open_adapter(made.adapter))
    assert torch.equal(logits(model), made.logits)
    assert not torch.equal(logits(model), made.base_logits)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == kind.endswith("-tied")
    taken.detach()
    taken.detach()
    after = bits(model)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(value is names[name] for name, value in model.named_parameters())
    assert torch.equal(logits(model), made.base_logits)


def test_attached_restores_after_an_error(make: Callable[..., Made]) -> None:
    made = make("llama-tied")
    model = build("llama-tied")
    with pytest.raises(RuntimeError, match="inside"), attached(model, open_adapter(made.adapter)):
        raise RuntimeError("inside")
    assert torch.equal(logits(model), made.base_logits)


def test_a_file_that_changes_later_does_not_change_the_model(make: Callable[..., Made]) -> None:
    made = make("llama-tied")
    model = build("llama-tied")
    attach(model, open_adapter(made.adapter))
    path = made.adapter / "adapter_model.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(logits(model), made.logits)


def test_wrong_base_changes_nothing(make: Callable[..., Made]) -> None:
    adapter = open_adapter(make("llama-tied").adapter)
    other = build("gpt2-tied")
    before = bits(other)
    with pytest.raises(AdapterError, match="which the model does not have"):
        attach(other, adapter)
    after = bits(other)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_wrong_shape_is_named(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    model = build("llama-tied")
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(32, 50, bias=False)
    with pytest.raises(AdapterError, match=r"up_proj.ln_tuning_layers.weight' is for shape \[48, 32\]"):
        attach(model, open_adapter(made.adapter))


def test_quantised_parameter_is_refused(make: Callable[..., Made]) -> None:
    model = build("llama-tied")
    up = model.model.layers[1].mlp.up_proj
    up.weight = torch.nn.Parameter(torch.zeros(48, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(AdapterError, match=r"up_proj\.weight, which is quantised"):
        attach(model, open_adapter(make("llama-tied").adapter))


LORAS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama-untied", {"target_modules": ["q_proj", "up_proj"], "r": 4, "lora_alpha": 8}),
    "rslora": ("llama-tied", {"target_modules": ["v_proj"], "r": 4, "lora_alpha": 8, "use_rslora": True}),
    "patterns": (
        "llama-tied",
        {
            "target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 8,
            "rank_pattern": {"down_proj": 2, r"layers\.0\.self_attn\.q_proj": 3},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 5},
        },
    ),
    "conv1d": ("gpt2-tied", {"target_modules": ["c_attn", "c_proj"], "r": 4, "fan_in_fan_out": True}),
    "embedding": ("llama-tied", {"target_modules": ["embed_tokens", "q_proj"], "r": 4}),
    "head and embedding": ("llama-untied", {"target_modules": ["embed_tokens", "lm_head"], "r": 4}),
    "modules to save": ("llama-untied", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "r": 4}),
    "tied modules to save": ("llama-tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "r": 4}),
    "bias": ("gpt2-untied", {"target_modules": ["c_attn"], "bias": "all", "r": 4, "fan_in_fan_out": True}),
    "bert": ("bert-tied", {"target_modules": ["query", "dense"], "r": 4}),
}  # fmt: skip


def lora_folder(kind: str, options: dict[str, Any], folder: Path, dtype: torch.dtype) -> torch.Tensor:
    """Write a LoRA folder with PEFT and return PEFT's logits with it."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build(kind, dtype=dtype), LoraConfig(**options))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return logits(model.eval())


@pytest.mark.parametrize("name", LORAS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-10)])
def test_lora_equals_peft(name: str, dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    kind, options = LORAS[name]
    expected = lora_folder(kind, options, tmp_path / "lora", dtype)
    model = build(kind, dtype=dtype)
    before = logits(model)
    adapter = open_adapter(tmp_path / "lora")
    assert adapter.kind == "lora"
    with attached(model, adapter):
        assert torch.allclose(logits(model), expected, rtol=0, atol=tolerance)
    assert torch.equal(logits(model), before)
    assert (expected - before).abs().max() > 0.01


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
    ],
)
def test_variants_of_lora_are_refused(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    kind = "gpt2-untied"
    options = {"target_modules": ["c_attn"], "fan_in_fan_out": True, **options}
    lora_folder(kind, options, tmp_path / "lora", torch.float32)
    with pytest.raises(AdapterError, match=named):
        attach(build(kind), open_adapter(tmp_path / "lora"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "type IA3 are not supported"),
        ({"r": 5}, "has rank 4, adapter_config.json says 5"),
        ({"lora_alpha": "8"}, "lora_alpha of"),
        ({"lora_alpha": None}, "lora_alpha of"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern must be an object"),
        ({"rank_pattern": {"(": 4}}, "which is no pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
    ],
)
def test_lora_configuration_that_lies(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    lora_folder(*LORAS["plain"], tmp_path / "lora", torch.float32)
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AdapterError, match=message):
        attach(build("llama-untied"), open_adapter(tmp_path / "lora"))
