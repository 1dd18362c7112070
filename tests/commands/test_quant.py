"""A quantised base in the commands: what is trained on it, kept of it, scored on it, merged from it and refused on it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctxtune.adapter.attach import attach
from ctxtune.adapter.read import open_adapter
from ctxtune.backend import assemble
from ctxtune.backend.load import load_base
from ctxtune.backend.quantise import Quantised
from ctxtune.commands.adapter import merge
from ctxtune.commands.dry_run import dry_run
from ctxtune.commands.evaluate import evaluate
from ctxtune.commands.generate import asks_of_prompts, generate
from ctxtune.errors import AdapterError, RecipeError

from ..conftest import adapter_tensors, same_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base
    from ctxtune.recipe.load import Resolved

    Adapt = Callable[..., dict[str, Any]]

QUANTS = ("int8", "nf4", "fp4")


@pytest.mark.parametrize("quant", QUANTS)
def test_scores_come_back_with_the_adapter(
    quant: str, adapt: Adapt, dev: Path, tmp_path: Path, captured: list[Base]
) -> None:
    more = {"quant": quant, "data.eval": str(dev), "train.lr": 1e-2, "train.steps": 6, "forget.probe": "builtin"}
    facts = adapt(more=more)
    manifest = open_adapter(tmp_path / "run").manifest
    assert manifest is not None
    assert (facts["quant"], manifest.quant, captured[0].quant) == (quant, quant, quant)
    assert f"21 of the 28 linear layers of the blocks in {quant}" in facts["device"]
    assert facts["cache"]["difference"] < 1e-5
    assert facts["forgetting"]["before"]["kl"] == pytest.approx(0, abs=1e-9)
    notes: list[str] = []
    found = evaluate(None, {"data.eval": str(dev), "device": "cpu"}, [], tmp_path / "run", False, notes.append)
    assert {key: found["scores"][key] for key in facts["scores"]["after"]} == pytest.approx(facts["scores"]["after"])
    assert any(f"in {quant}" in note for note in notes)
    flags = {"data.eval": str(dev), "device": "cpu", "quant": "none"}
    plain = evaluate(None, flags, [], tmp_path / "run", False, notes.append)["scores"]
    assert plain["loss"] != pytest.approx(found["scores"]["loss"], abs=1e-6)
    assert "linear layers" not in notes[-1]


def test_each_way_of_storing_has_its_kept_states(adapt: Adapt) -> None:
    places = [
        adapt(out=f"{quant} {again}", more={"quant": quant, "cache": "disk"})["cache"]
        for again in (0, 1)
        for quant in ("none", *QUANTS)
    ]
    assert [cache["place"] for cache in places] == ["disk"] * 4 + ["kept"] * 4
    assert len({cache["digest"] for cache in places}) == 4


@pytest.mark.parametrize("layers", ["embeddings", "head", "all"])
def test_whatever_trains_is_float(layers: str, adapt: Adapt, captured: list[Base], tmp_path: Path) -> None:
    facts = adapt(more={"quant": "nf4", "method.layers": layers})
    layers_of = [module for module in captured[0].model.modules() if isinstance(module, Quantised)]
    if layers == "all":
        assert layers_of == []
        assert "so that none is quantised" in facts["device"]
        adapt(out="float", more={"method.layers": layers})
        assert same_tensors(adapter_tensors(tmp_path / "run"), adapter_tensors(tmp_path / "float"))
    else:
        assert len(layers_of) == 28
    assert all(tensor.dtype is torch.float32 for tensor in adapter_tensors(tmp_path / "run").values())


def test_generating_uses_the_recipes_quant(adapt: Adapt, tmp_path: Path) -> None:
    adapt(more={"quant": "int8", "train.lr": 1e-2})
    notes: list[str] = []
    asks = asks_of_prompts(["Review: great fun\nSentiment:"])
    flags = {"device": "cpu", "generate.max_tokens": 3}
    (said,) = generate(asks, flags, tmp_path / "run", False, 1, notes.append)
    assert said["tokens"] == 3
    assert any("21 of the 28 linear layers of the blocks in int8" in note for note in notes)


def test_an_adapter_for_a_quantised_module_is_refused(
    adapt: Adapt, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    adapt()
    base = load_base(model_folders["llama-tied"], "cpu", "nf4")
    with pytest.raises(AdapterError, match="which is quantised here") as caught:
        attach(base.model, open_adapter(tmp_path / "run"))
    assert "--quant none" in str(caught.value.hint)


def test_merging_says_that_the_base_was_another(adapt: Adapt, tmp_path: Path) -> None:
    adapt(more={"quant": "nf4", "train.lr": 1e-2})
    done = merge(tmp_path / "run", tmp_path / "merged")
    assert "scored on the base in nf4" in str(done.note)
    assert done.merged.kl is not None
    assert done.merged.kl < 1e-6
    adapt(out="float")
    assert merge(tmp_path / "float", tmp_path / "merged float").note is None


def test_an_unknown_way_of_storing(adapt: Adapt) -> None:
    with pytest.raises(RecipeError, match="quant"):
        adapt(more={"quant": "nf5"})


@pytest.mark.parametrize("layers", ["last:2", "embeddings"])
def test_words_in_16_bits_change_no_step_and_are_foreseen(
    layers: str, adapt: Adapt, resolve: Callable[..., Resolved], reviews: Path, model_folders: dict[str, Path],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = shutil.copytree(model_folders["llama-untied"], tmp_path / "half")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    more = {"model": str(folder), "quant": "nf4", "method.layers": layers, "train.lr": 1e-2}
    foreseen = dry_run(resolve("llama-untied", reviews, "run", more))["weight_bytes"]
    assert adapt("llama-untied", more=more)["weight_bytes"] == foreseen
    with monkeypatch.context() as patch:
        patch.setattr(assemble, "keep_words", lambda *_: set())
        assert adapt("llama-untied", "float", more=more)["weight_bytes"] > foreseen
    assert same_tensors(adapter_tensors(tmp_path / "run"), adapter_tensors(tmp_path / "float"))
    if layers == "embeddings":  # which a base that was told of no adapter keeps in 16 bits
        with pytest.raises(AdapterError, match=r"embed_tokens\.weight, which is kept in 16 bits here"):
            attach(load_base(folder, "cpu", "nf4").model, open_adapter(tmp_path / "run"))
