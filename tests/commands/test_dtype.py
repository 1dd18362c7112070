"""Whole runs in bfloat16: the laws that float32 keeps hold there too, and what does not train is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.adapter.attach import attach
from ctxtune.adapter.read import open_adapter
from ctxtune.backend import device as device_file
from ctxtune.backend.load import load_base
from ctxtune.commands.adapter import merge
from ctxtune.commands.dry_run import dry_run
from ctxtune.errors import RecipeError

from ..conftest import Killed, adapter_tensors, kill_at, losses, same_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.recipe.load import Resolved

    Adapt = Callable[..., dict[str, Any]]

BF16 = {"dtype": "bfloat16", "train.steps": 6}
IDS = torch.arange(5, 25)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=IDS).logits
    return result


def attached(folder: Path, run: Path, moving: bool) -> torch.Tensor:
    adapter = open_adapter(run / "adapter")
    from ctxtune.adapter.change import parameters_of

    base = load_base(folder, "cpu", moving=parameters_of(adapter) if moving else (), dtype="bfloat16")
    attach(base.model, adapter)
    return logits(base.model)


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize(
    ("kind", "layers"), [("llama-tied", "embeddings"), ("gpt2-untied", "first:1"), ("bert-tied", "last:1+head")]
)
def test_saved_merged_and_in_peft(
    kind: str, layers: str, adapt: Adapt, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    facts = adapt(kind, more={**BF16, "method.layers": layers, "forget.probe": "builtin"})
    assert facts["dtype"] == "bfloat16"
    assert facts["forgetting"]["before"]["kl"] == 0
    assert facts["forgetting"]["after"]["kl"] > 0
    folder, run = model_folders[kind], tmp_path / "run"
    assert {tensor.dtype for tensor in adapter_tensors(run).values()} == {torch.float32}
    told = attached(folder, run, moving=True)
    assert not torch.equal(told, logits(load_base(folder, "cpu", dtype="bfloat16").model))
    assert torch.equal(attached(folder, run, moving=False), told)
    merge(run / "adapter", tmp_path / "merged", str(folder))
    assert torch.equal(logits(load_base(tmp_path / "merged", "cpu", dtype="bfloat16").model), told)
    loader = AutoModelForMaskedLM if kind.startswith("bert") else AutoModelForCausalLM
    plain = loader.from_pretrained(folder, dtype=torch.bfloat16).eval()
    twin = PeftModel.from_pretrained(plain, run / "adapter", autocast_adapter_dtype=False)
    assert torch.equal(logits(twin), told)


def test_two_halves_are_a_whole(adapt: Adapt, tmp_path: Path) -> None:
    adapt(out="whole", more=BF16)
    with pytest.raises(Killed):
        adapt(out="halves", more={**BF16, "train.save_every": 3}, at=kill_at(4))
    adapt(out="halves", more={**BF16, "train.save_every": 3}, resume=True)
    assert same_tensors(adapter_tensors(tmp_path / "halves"), adapter_tensors(tmp_path / "whole"))


def test_kept_states_are_of_the_type(adapt: Adapt, tmp_path: Path) -> None:
    """What float32 has left on the disk is not taken, and what is kept changes no loss but by the type's noise."""
    runs: dict[str, Any] = {}
    for out, more in {
        "wide": {"train.steps": 6, "cache": "disk"},
        "narrow": {**BF16, "cache": "disk"},
        "again": {**BF16, "cache": "disk"},
        "off": {**BF16, "cache": "off"},
    }.items():
        runs[out] = adapt(out=out, more=more)
    assert [runs[out]["cache"]["place"] for out in runs] == ["disk", "disk", "kept", "off"]
    assert losses(tmp_path / "again") == losses(tmp_path / "narrow")
    assert losses(tmp_path / "off") == pytest.approx(losses(tmp_path / "narrow"), rel=0.02)
    assert losses(tmp_path / "wide") == pytest.approx(losses(tmp_path / "narrow"), rel=0.02)


def test_parts_of_a_batch_add_up_in_float32(adapt: Adapt, tmp_path: Path) -> None:
    adapt(out="one", more=BF16)
    adapt(out="eight", more={**BF16, "train.micro_batch": 1})
    assert losses(tmp_path / "eight") == pytest.approx(losses(tmp_path / "one"), rel=0.01)


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_the_bytes_that_were_foreseen(
    quant: str, adapt: Adapt, resolve: Callable[..., Resolved], reviews: Path, tmp_path: Path
) -> None:
    more = {**BF16, "quant": quant}
    foreseen = dry_run(resolve("llama-untied", reviews, "run", more))
    assert foreseen["weight_bytes"] == adapt("llama-untied", more=more)["weight_bytes"]
    assert foreseen["weight_bytes"] < dry_run(resolve("llama-untied", reviews, "x", {"quant": quant}))["weight_bytes"]
    stored = sum(tensor.nbytes for tensor in adapter_tensors(tmp_path / "run").values())
    assert foreseen["adapter_tensor_bytes"] == stored


def test_layers_are_chosen_in_the_type(adapt: Adapt) -> None:
    facts = adapt("llama-untied", more={**BF16, "method.layers": "auto"})
    assert facts["method"]["layers"].startswith("last:")


def test_float16_does_not_train(adapt: Adapt, resolve: Callable[..., Resolved], reviews: Path) -> None:
    with pytest.raises(RecipeError, match="dtype float16 does not train") as caught:
        adapt(more={"dtype": "float16"})
    assert "bfloat16" in (caught.value.hint or "")
    with pytest.raises(RecipeError, match="dtype float16"):
        dry_run(resolve("llama-tied", reviews, more={"dtype": "float16"}))


def test_what_is_emulated_is_said(
    resolve: Callable[..., Resolved], reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.commands.adapt import adapt

    from ..conftest import Listener

    for flags, count in (([], 1), (["amx_bf16"], 0)):
        listener = Listener()
        monkeypatch.setattr(device_file, "_cpu_flags", lambda flags=flags: flags)
        adapt(resolve("llama-tied", reviews, f"run{count}", BF16), False, listener)
        assert len([note for note in listener.notes if "bfloat16 is emulated" in note and "7 times" in note]) == count
        assert any("bfloat16 (asked for" in note for note in listener.notes)
