"""A folder becomes a frozen float32 model, or a clear error: never a half-loaded one, never another one."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.backend import load
from ctxtune.backend.context import context_length
from ctxtune.backend.library import hush
from ctxtune.backend.load import load_base
from ctxtune.backend.tokenizer import load_tokenizer
from ctxtune.errors import ModelError

from ..conftest import CONTEXT, KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tied Llama to break."""
    return shutil.copytree(model_folders["llama-tied"], tmp_path / "model")


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_is_whole_frozen_and_at_rest(kind: str, model_folders: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    base = load_base(model_folders[kind])
    loader = AutoModelForMaskedLM if kind.startswith("bert") else AutoModelForCausalLM
    plain = loader.from_pretrained(model_folders[kind]).eval()
    assert type(base.model) is type(plain)
    assert not base.model.training
    names = [name for name, _ in plain.named_parameters(remove_duplicate=False)]
    assert [name for name, _ in base.model.named_parameters(remove_duplicate=False)] == names
    for name, parameter in base.model.named_parameters():
        assert not parameter.requires_grad
        assert parameter.dtype is torch.float32
        assert torch.equal(parameter, plain.get_parameter(name))
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        ours, theirs = base.model(input_ids=ids).logits, plain(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    assert (base.max_length, base.width, base.attention, base.folder) == (CONTEXT, 32, "sdpa", model_folders[kind])
    assert base.tokenizer.is_fast


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_no_tensor_of_a_plain_folder(
    kind: str, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own reader compiles a thousand patterns before the first tensor."""
    monkeypatch.setattr(load, "_float_model", None)
    assert load_base(model_folders[kind], "cpu").parameters > 0


def test_names_of_other_days_are_read_by_transformers(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """BERT's first files call a norm's weight gamma and its bias beta."""
    folder = shutil.copytree(model_folders["bert-tied"], tmp_path / "old")
    base = load_base(folder, "cpu")

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)

    weights(rename)(folder)
    again = load_base(folder, "cpu")
    for name, parameter in again.model.named_parameters():
        assert torch.equal(parameter, base.model.get_parameter(name))


def test_what_assembling_meets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers has the last word on a float model; a quantised one it cannot read at all."""

    def fail(*arguments: object) -> None:
        raise RuntimeError("an odd tensor")

    monkeypatch.setattr("ctxtune.backend.assemble.assemble", fail)
    assert load_base(folder, "cpu").parameters > 0
    with pytest.raises(ModelError, match="cannot be loaded: an odd tensor"):
        load_base(folder, "cpu", "int8")


def test_a_half_precision_file_is_float32_in_memory(folder: Path) -> None:
    base = load_base(folder)
    model: Any = base.model
    model.to(torch.bfloat16).save_pretrained(folder)
    again = load_base(folder)
    assert {parameter.dtype for parameter in again.model.parameters()} == {torch.float32}
    for name, parameter in again.model.named_parameters():
        assert torch.equal(parameter, base.model.get_parameter(name).float())


def test_the_hub_is_never_asked(folder: Path) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    load_base(folder)


def test_transformers_is_silent(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    logging.set_verbosity_info()
    logging.enable_progress_bar()
    hush()
    assert logging.get_verbosity() == logging.ERROR
    assert not logging.is_progress_bar_enabled()
    base = load_base(folder)
    base.tokenizer("a long text " * 1000)
    said = capfd.readouterr()
    assert said.out + said.err == ""


def config(path: Path, **changes: Any) -> None:
    fields = json.loads((path / "config.json").read_text(encoding="utf-8"))
    fields.update(changes)
    (path / "config.json").write_text(json.dumps(fields), encoding="utf-8")


def weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.layers.2.mlp.up_proj.weight"]


def _reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(40, 32)


def _text(name: str, text: str) -> Callable[[Path], Any]:
    return lambda path: (path / name).write_text(text, encoding="utf-8")


def _cut(path: Path) -> None:
    file = path / "model.safetensors"
    os.truncate(file, file.stat().st_size - 100)


def _empty(path: Path) -> None:
    os.truncate(path / "model.safetensors", 0)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an unknown family": (lambda path: config(path, model_type="mamba"), "family 'mamba' is not supported"),
    "a family nobody knows": (lambda path: config(path, model_type="nonsense"), "config.json"),
    "config that is no JSON": (_text("config.json", "{"), "config.json"),
    "an empty config": (_text("config.json", ""), "config.json"),
    "config that is a list": (_text("config.json", "[1]"), "config.json"),
    "config without a family": (_text("config.json", "{}"), "config.json"),
    "a tensor too few": (weights(_drop), "missing"),
    "a tensor of another shape": (weights(_reshape), "cannot be loaded"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "cannot be read"),
    "weights cut short": (_cut, r"model\.safetensors: the header promises"),
    "empty weights": (_empty, r"model\.safetensors is not a safetensors file"),
    "a width that is a word": (lambda path: config(path, hidden_size="many"), "config.json|cannot be loaded"),
}


@pytest.mark.parametrize(("damage", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder(damage: Callable[[Path], Any], said: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=said) as caught:
        load_base(folder)
    assert "\n" not in str(caught.value)


TOKENIZERS: dict[str, Callable[[Path], Any]] = {
    "no JSON": _text("tokenizer.json", "{"),
    "empty": _text("tokenizer.json", ""),
    "no tokenizer": _text("tokenizer.json", "{}"),
    "missing": lambda path: (path / "tokenizer.json").unlink(),
    "a broken config beside it": _text("tokenizer_config.json", "{"),
}


@pytest.mark.parametrize("damage", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_broken_tokenizer(damage: Callable[[Path], Any], folder: Path) -> None:
    damage(folder)
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(folder)


def test_context_length() -> None:
    assert context_length({"max_position_embeddings": 77}) == 77
    assert context_length({"n_positions": 78}) == 78
    assert context_length({"max_position_embeddings": None, "n_positions": 79}) == 79
    assert context_length({"max_seq_len": 80}) == 80
    assert context_length({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}) == 512
    assert context_length({"max_position_embeddings": 0}) == 2048
    assert context_length({}) == 2048
