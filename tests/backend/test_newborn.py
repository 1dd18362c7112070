"""New models: plain ones of transformers, that know nothing yet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxtune.backend.newborn import make_model, matrices, shape_only, write_model
from ctxtune.backend.vocabulary import learn_vocabulary
from ctxtune.recipe.pretrain import Pretrain

if TYPE_CHECKING:
    from pathlib import Path

ARCHES = ["llama", "qwen3", "gpt2", "neox"]
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def settings(arch: str, **more: Any) -> Pretrain:
    return Pretrain(name="pretrain", arch=arch, depth=2, row=32, **more)


def moved(model: Any) -> Any:
    """The same with nothing at zero."""
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn(param.shape, generator=torch.Generator().manual_seed(param.numel())) * 0.1)
    return model.eval()


@pytest.mark.parametrize("arch", ARCHES)
def test_at_first_every_token_is_equally_likely(arch: str) -> None:
    model, _ = make_model(settings(arch), 300, 0, seed=0)
    assert model(IDS).logits.abs().max() == 0
    loss = model(IDS, labels=IDS).loss.item()
    assert loss == pytest.approx(math.log(300))


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("arch", ARCHES)
def test_what_is_saved_loads_with_plain_transformers(arch: str, tie: bool, tmp_path: Path) -> None:
    tokenizer = learn_vocabulary(["some text to learn from, some more"], 300)
    model, _ = make_model(settings(arch, tie=tie), len(tokenizer), tokenizer.eos_token_id, seed=0)
    moved(model)
    write_model(model, tokenizer, tmp_path, model.state_dict())
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert again.config.eos_token_id == tokenizer.eos_token_id
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert read("some text").input_ids == tokenizer("some text").input_ids
    assert read.eos_token_id == tokenizer.eos_token_id
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}


@pytest.mark.parametrize("arch", ARCHES)
def test_buffers_are_those_of_the_plain_class(arch: str) -> None:
    """Made without memory first, a model would hold whatever lay there."""
    model, _ = make_model(settings(arch), 300, 0, seed=0)
    plain: Any = AutoModelForCausalLM.from_config(model.config)
    ours = dict(model.named_buffers())
    assert set(ours) == {name for name, _ in plain.named_buffers()}
    for name, buffer in plain.named_buffers():
        assert torch.equal(ours[name], buffer), name


def test_a_seed_makes_the_same_numbers_and_leaves_chance_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other, third = (make_model(settings("llama"), 300, 0, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one.get_input_embeddings().weight, third.get_input_embeddings().weight)  # type: ignore[operator]


@pytest.mark.parametrize("arch", ARCHES)
def test_the_matrices_are_those_of_the_blocks(arch: str) -> None:
    model, anatomy = make_model(settings(arch), 300, 0, seed=0)
    found = matrices(model, anatomy)
    each = {"llama": 7, "qwen3": 7, "gpt2": 4, "neox": 4}[arch]
    assert len(found) == 2 * each
    assert not any("embed" in name or name.startswith(("lm_head", "transformer.w")) for name in found)


def test_a_model_without_numbers_has_as_many() -> None:
    model, _ = make_model(settings("qwen3"), 300, 0, seed=0)
    shape = shape_only(settings("qwen3"), 300, 0)
    assert [one.shape for one in shape.parameters()] == [one.shape for one in model.parameters()]


@pytest.mark.parametrize(("heads", "head"), [(2, 32), (3, 16), (3, 64)])
def test_heads_begin_on_the_tokens_just_before(heads: int, head: int) -> None:
    """As the attention of transformers says; the other heads see all tokens about alike."""
    model: Any = make_model(settings("llama", heads=4, width=4 * head, previous_heads=heads), 300, 0, seed=0)[0]
    model.set_attn_implementation("eager")
    looks = model(torch.arange(30)[None], output_attentions=True).attentions
    for block in looks:
        for number in range(heads):
            before = block[0, number, number + 1 :].diagonal()
            assert before.mean() > 0.7, number
        assert block[0, heads:, 20:].max() < 0.2


@pytest.mark.parametrize(
    ("arch", "heads", "wrong"), [("qwen3", 1, "qwen3"), ("gpt2", 1, "gpt2"), ("llama", 3, "2 heads")]
)
def test_heads_that_cannot(arch: str, heads: int, wrong: str) -> None:
    with pytest.raises(ValueError, match=rf"previous_heads: .*{wrong}"):
        settings(arch, heads=2, previous_heads=heads)


def test_none_of_them_look_back() -> None:
    """A llama of the plain kind, without biases."""
    model: Any = make_model(settings("llama", previous_heads=0), 300, 0, seed=0)[0]
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())
