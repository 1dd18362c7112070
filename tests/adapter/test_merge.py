"""Merging equals attaching; what the adapter does not touch is copied byte for byte."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.adapter.attach import attached
from ctxtune.adapter.merge import merge
from ctxtune.adapter.read import open_adapter
from ctxtune.backend.folder import check_folder, weight_files
from ctxtune.backend.library import hush
from ctxtune.backend.tensors import read_header
from ctxtune.commands import adapter as command
from ctxtune.errors import AdapterError, ModelError, RecipeError, StorageError

from .conftest import KINDS, build, logits, save
from .test_attach import LORAS, lora_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from .conftest import Made


def load(folder: Path, kind: str) -> nn.Module:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    loader = AutoModelForMaskedLM if kind.startswith("bert") else AutoModelForCausalLM
    hush()
    model, info = loader.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


def contents(folder: Path) -> dict[str, bytes]:
    """Tensor name -> bytes, over all files of a model folder."""
    found = {}
    for path in weight_files(folder):
        data = path.read_bytes()
        found |= {name: data[info.begin : info.end] for name, info in read_header(path).tensors.items()}
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("part", ["last", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_merge_equals_attach(
    kind: str, part: str, dtype: torch.dtype, make: Callable[..., Made], tmp_path: Path
) -> None:
    made = make(kind, part, dtype)
    merged = merge(made.base, open_adapter(made.adapter), tmp_path / "merged")
    assert len({file.stat().st_mode for file in (tmp_path / "merged").iterdir()}) == 1
    model = load(tmp_path / "merged", kind)
    assert model.dtype is dtype
    with attached(base := load(made.base, kind), open_adapter(made.adapter)):
        assert torch.equal(logits(model), logits(base))
    old, new = contents(made.base), contents(tmp_path / "merged")
    assert old.keys() == new.keys()
    assert merged.changed == sum(old[name] != new[name] for name in old) > 0
    assert not merged.untied
    check_folder(tmp_path / "merged")
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (made.base / "tokenizer.json").read_bytes()


def test_shards_keep_their_names(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-untied")
    sharded = save(build("llama-untied"), tmp_path / "sharded", max_shard_size="20KB")
    assert len(weight_files(sharded)) > 2
    merge(sharded, open_adapter(made.adapter), tmp_path / "merged")
    assert torch.equal(logits(load(tmp_path / "merged", "llama")), made.logits)
    index = "model.safetensors.index.json"
    old, new = (json.loads((folder / index).read_text()) for folder in (sharded, tmp_path / "merged"))
    assert old["weight_map"] == new["weight_map"]


def test_another_type_is_written_everywhere(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    merge(made.base, open_adapter(made.adapter), tmp_path / "merged", dtype="bfloat16")
    model = load(tmp_path / "merged", "llama")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.allclose(logits(model).float(), made.logits, atol=0.1)
    with pytest.raises(RecipeError, match="dtype 'int8' is not known"):
        merge(made.base, open_adapter(made.adapter), tmp_path / "other", dtype="int8")


def test_bfloat16_rounds_once(tmp_path: Path, make: Callable[..., Made]) -> None:
    """A float32 adapter merged into a bfloat16 base is the float32 value rounded, not the sum of rounded parts."""
    made = make("llama-untied")
    base = save(build("llama-untied", dtype=torch.bfloat16), tmp_path / "base16")
    merge(base, open_adapter(made.adapter), tmp_path / "merged")
    merge(made.base, open_adapter(made.adapter), tmp_path / "wide")
    narrow, wide = load(tmp_path / "merged", "llama").state_dict(), load(tmp_path / "wide", "llama").state_dict()
    assert all(torch.equal(value, wide[name].to(torch.bfloat16)) for name, value in narrow.items())


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("name", LORAS)
def test_lora_merges_as_peft_computes(name: str, tmp_path: Path) -> None:
    kind, options = LORAS[name]
    expected = lora_folder(kind, options, tmp_path / "lora", torch.float32)
    base = save(build(kind), tmp_path / "base")
    merged = merge(base, open_adapter(tmp_path / "lora"), tmp_path / "merged")
    assert torch.allclose(logits(load(tmp_path / "merged", kind)), expected, rtol=0, atol=2e-4)
    assert merged.untied == (name in ("embedding", "tied modules to save"))


@pytest.mark.filterwarnings("ignore")  # peft's own
def test_bert_whose_embedding_parts_from_its_head(tmp_path: Path) -> None:
    options: dict[str, Any] = {"target_modules": ["word_embeddings"], "r": 2}
    expected = lora_folder("bert-tied", options, tmp_path / "lora", torch.float32)
    base = save(build("bert-tied"), tmp_path / "base")
    assert merge(base, open_adapter(tmp_path / "lora"), tmp_path / "merged").untied
    assert torch.allclose(logits(load(tmp_path / "merged", "bert")), expected, rtol=0, atol=2e-4)


def test_the_loss_is_a_gate(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    adapter, seen = open_adapter(made.adapter), []

    def kl(base: Path, attached: object, merged: Path) -> float:
        seen.append((base, attached, (merged / "model.safetensors").is_file()))
        return losses.pop()

    losses = [0.5, float("nan"), 0.5, 1e-4]
    assert merge(made.base, adapter, tmp_path / "one", kl=kl).kl == 1e-4
    assert seen == [(made.base, adapter, True)]
    with pytest.raises(AdapterError, match=r"KL\(attached \|\| merged\) is 5.00e-01 nats"):
        merge(made.base, adapter, tmp_path / "two", kl=kl)
    with pytest.raises(AdapterError, match="is nan"):
        merge(made.base, adapter, tmp_path / "two", kl=kl)
    assert not [path for path in tmp_path.iterdir() if "two" in path.name]
    assert merge(made.base, adapter, tmp_path / "two", force=True, kl=kl).kl == 0.5


def test_refusals(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    adapter = open_adapter(made.adapter)
    with pytest.raises(StorageError, match="exists already"):
        merge(made.base, adapter, made.base)
    with pytest.raises(AdapterError, match="which the model does not have"):
        merge(save(build("gpt2-tied"), tmp_path / "gpt2"), adapter, tmp_path / "merged")
    config = json.loads((made.base / "config.json").read_text())
    (made.base / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(ModelError, match="is quantised"):
        merge(made.base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_the_command_checks_the_base(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    done = command.merge(made.adapter, tmp_path / "merged")  # the adapter names its base
    assert done.note is None
    assert done.merged.kl == pytest.approx(0.0, abs=1e-9)
    other = save(build("llama-tied", seed=5), tmp_path / "other")
    with pytest.raises(AdapterError, match="was made on"):
        command.merge(made.adapter, tmp_path / "wrong", str(other))
    assert not (tmp_path / "wrong").exists()
    assert "was made on" in (command.merge(made.adapter, tmp_path / "wrong", str(other), force=True).note or "")


def test_the_words_of_the_command(make: Callable[..., Made], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ctxtune.cli.adapter import app

    made = make("gpt2-tied")
    words = ["merge", str(made.adapter), "--model", str(made.base), "--dtype", "bfloat16", "--force", "--json"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "merged")])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["folder"] == str(tmp_path / "merged")
    assert facts["changed_tensors"] > 0
    assert load(tmp_path / "merged", "gpt2").dtype is torch.bfloat16
    for words in (["show"], ["verify", "--model", str(made.base)]):
        done = CliRunner().invoke(app, [*words, str(made.adapter)])
        assert done.exit_code == 0, done.output
        assert str(made.adapter.name) in done.stdout
    done = CliRunner().invoke(app, ["export", str(made.adapter), "--to", "gguf", "--out", str(tmp_path / "x")])
    assert isinstance(done.exception, RecipeError)
    assert not (tmp_path / "x").exists()
