"""A quantised model is the one that transformers loads but for its quantised layers, and is put together layer by layer."""

from __future__ import annotations

import json
import shutil
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctxtune.backend.load import load_base
from ctxtune.backend.quantise import Quantised
from ctxtune.errors import ModelError

from ..conftest import KINDS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

QUANTS = ("int8", "nf4", "fp4")


@pytest.fixture
def folder(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(model_folders["llama-tied"], tmp_path / "model")


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.arange(5, 53).reshape(3, 16)).logits
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quant", QUANTS)
def test_it_is_the_plain_model_with_rounded_weights(kind: str, quant: str, model_folders: dict[str, Path]) -> None:
    plain, ours = load_base(model_folders[kind], "cpu"), load_base(model_folders[kind], "cpu", quant)
    assert type(ours.model) is type(plain.model)
    assert not ours.model.training
    theirs = dict(plain.model.named_parameters(remove_duplicate=False))
    names = [name for name, _ in ours.model.named_parameters(remove_duplicate=False)]
    assert names == list(theirs)
    rounded = 0
    for name, parameter in ours.model.named_parameters(remove_duplicate=False):
        module: Any = ours.model.get_submodule(name.rpartition(".")[0])
        assert not parameter.requires_grad
        if name.endswith("weight") and isinstance(module, Quantised):
            weight = module.float_weight()
            expected = theirs[name] if weight.shape == theirs[name].shape and "gpt2" not in kind else theirs[name].t()
            assert (weight - expected).abs().mean() < 0.2 * expected.abs().mean()
            theirs[name].data.copy_(weight if expected is theirs[name] else weight.t())
            rounded += 1
        else:
            assert torch.equal(parameter, theirs[name])
    buffers = dict(ours.model.named_buffers())
    for name, buffer in plain.model.named_buffers():
        assert torch.equal(buffers[name], buffer)
    assert rounded in (16, 24, 28)
    torch.testing.assert_close(logits(ours.model), logits(plain.model), rtol=0, atol=2e-6)


def test_tied_parameters_stay_one(model_folders: dict[str, Path]) -> None:
    model: Any = load_base(model_folders["llama-tied"], "cpu", "nf4").model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model = load_base(model_folders["llama-untied"], "cpu", "nf4").model
    assert model.lm_head.weight is not model.model.embed_tokens.weight


@pytest.mark.parametrize("same", [True, False])
def test_files_that_hold_both_of_a_tied_pair(same: bool, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * (1 if same else 2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    plain: Any = load_base(folder, "cpu").model
    ours: Any = load_base(folder, "cpu", "nf4").model
    for model in (plain, ours):
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == same
    assert torch.equal(ours.lm_head.weight, plain.lm_head.weight)


def test_modules_that_move_stay_float(model_folders: dict[str, Path]) -> None:
    plain: Any = load_base(model_folders["gpt2-tied"], "cpu").model
    ours: Any = load_base(
        model_folders["gpt2-tied"], "cpu", "int8", ["transformer.h.2.mlp.c_fc.bias", "of another model"]
    ).model
    kept = ours.transformer.h[2].mlp.c_fc
    assert type(kept) is type(plain.transformer.h[2].mlp.c_fc)
    assert torch.equal(kept.weight, plain.transformer.h[2].mlp.c_fc.weight)
    assert isinstance(ours.transformer.h[2].mlp.c_proj, Quantised)


def test_half_precision_files_in_parts(folder: Path) -> None:
    whole: Any = load_base(folder, "cpu").model
    whole.to(torch.bfloat16).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert (folder / "model.safetensors.index.json").is_file()
    plain: Any = load_base(folder, "cpu").model
    ours: Any = load_base(folder, "cpu", "int8").model
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32, torch.int8, torch.bfloat16}
    assert torch.equal(ours.lm_head.weight.float(), plain.lm_head.weight)
    layer = ours.model.layers[1].mlp.up_proj
    assert (layer.float_weight() - plain.model.layers[1].mlp.up_proj.weight).abs().max() < 0.01


def test_names_without_the_backbone(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(model_folders["gpt2-tied"], tmp_path / "bare")
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    expected = load_base(model_folders["gpt2-tied"], "cpu", "nf4")
    assert torch.equal(logits(load_base(folder, "cpu", "nf4").model), logits(expected.model))


def test_how_it_generates_is_read(folder: Path) -> None:
    said = {"eos_token_id": [1, 7], "temperature": 0.3, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(said), encoding="utf-8")
    plain: Any = load_base(folder, "cpu").model
    ours: Any = load_base(folder, "cpu", "nf4").model
    assert ours.generation_config.to_dict() == plain.generation_config.to_dict()


def test_one_float_layer_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Tensor]] = []
    real = Quantised.__init__

    def spy(self: Quantised, weight: Tensor, *rest: Any) -> None:
        assert [one for one in made if one() is not None] == []
        made.append(weakref.ref(weight))
        real(self, weight, *rest)

    monkeypatch.setattr(Quantised, "__init__", spy)
    load_base(folder, "cpu", "nf4")
    assert len(made) == 28


def test_a_tensor_too_few(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"the weights lack model\.layers\.2\.mlp\.up_proj\.weight"):
        load_base(folder, "cpu", "nf4")
