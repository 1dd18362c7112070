"""Shares of adapters: W + alpha (W' - W) by hand, attached and written; exactly the base at 0 and the adapter at 1."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ctxtune.adapter.attach import attached
from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.verify import verify
from ctxtune.adapter.write import write_adapter
from ctxtune.cli.adapter import app
from ctxtune.commands.scale import scale
from ctxtune.errors import AdapterError, PlaceError, RecipeError

from .conftest import build, logits, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from .conftest import Made


def between(kind: str, tuned: nn.Module, alpha: float) -> nn.Module:
    """By hand, in double precision."""
    model = build(kind)
    theirs = dict(tuned.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            moved = theirs[name].double() - parameter.double()
            parameter.copy_(parameter.double() + alpha * moved)
    return model


def adapters(make: Callable[..., Made], move: Callable[..., Made], kind: str, container: str) -> Made:
    return make(kind, "all") if container == "whole" else move(kind, container, stored=torch.bfloat16)


CELLS = [("llama-tied", "whole"), ("gpt2-untied", "whole"), ("llama-untied", "columns"), ("gpt2-tied", "entries")]


@pytest.mark.parametrize(("kind", "container"), CELLS)
def test_attached_and_written(
    kind: str, container: str, make: Callable[..., Made], move: Callable[..., Made], tmp_path: Path
) -> None:
    made = adapters(make, move, kind, container)
    adapter, model = open_adapter(made.adapter), build(kind)
    with attached(model, adapter):
        tuned = {name: value.detach().clone() for name, value in model.named_parameters(remove_duplicate=False)}
    whole = build(kind)
    with torch.no_grad():
        for name, value in whole.named_parameters():
            value.copy_(tuned[name])
    for alpha, exact in ((0.0, made.base_logits), (1.0, made.logits)):
        with attached(model, adapter, alpha):
            assert torch.equal(logits(model), exact)
    for alpha in (0.5, 0.3):
        wanted = logits(between(kind, whole, alpha))
        with attached(model, adapter, alpha):
            found = logits(model)
            tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert tied == kind.endswith("-tied")
        assert (found - wanted).abs().max() <= 1e-5
        assert (found - made.logits).abs().max() > 1e-3
        share, _ = scale(made.adapter, str(alpha), tmp_path / f"share {alpha}", None, False, lambda text: None)
        written = open_adapter(tmp_path / f"share {alpha}")
        assert share == alpha
        assert all(check.ok for check in verify(written))
        with attached(model, written):
            assert torch.equal(logits(model), found)
    assert torch.equal(logits(model), made.base_logits)


def test_what_a_share_says_of_itself(make: Callable[..., Made], move: Callable[..., Made], tmp_path: Path) -> None:
    """Of a share of a share as well; scores are not those of the whole."""
    for made, name in ((make("llama-tied"), "whole"), (move("llama-tied", name="mask"), "mask")):
        first, second = tmp_path / f"{name} half", tmp_path / f"{name} quarter"
        scale(made.adapter, "0.5", first, None, False, pytest.fail)
        scale(first, "0.5", second, None, False, pytest.fail)
        told = open_adapter(second).manifest
        assert told is not None
        assert told.settings == {**made.manifest.settings, "scaled": 0.25}
        assert told.scores == dataclasses.replace(made.manifest.scores, after={})
        assert told.forgetting.after == {}
        assert "W + 0.25 (W' - W)" in (second / "README.md").read_text()
        shown = CliRunner().invoke(app, ["show", str(second), "--json"])
        assert json.loads(shown.stdout)["manifest"]["settings"]["scaled"] == 0.25
        assert "0.25" in CliRunner().invoke(app, ["show", str(second)]).stdout
        config = made.adapter / "adapter_config.json"
        assert (second / config.name).exists() == config.exists()
        if config.exists():
            assert json.loads((second / config.name).read_text()) == json.loads(config.read_text())
            with attached(model := build("llama-tied"), open_adapter(made.adapter), 0.25):
                found = logits(model)
            with attached(model, open_adapter(second)):
                assert (logits(model) - found).abs().max() <= 1e-5


def test_changes_keep_their_type_where_they_stay_exact(move: Callable[..., Made], tmp_path: Path) -> None:
    made = move("llama-tied")
    for alpha, dtype in ((0.5, torch.bfloat16), (0.3, torch.float32)):
        out = tmp_path / str(alpha)
        scale(made.adapter, str(alpha), out, None, False, pytest.fail)
        tensors, before = (
            load_file(out / "adapter_model.safetensors"),
            load_file(made.adapter / "adapter_model.safetensors"),
        )
        assert tensors.keys() == before.keys()
        for name, tensor in tensors.items():
            if not name.endswith(".delta"):
                assert torch.equal(tensor, before[name])
                continue
            assert tensor.dtype is dtype
            assert torch.equal(tensor.float(), before[name].float() * alpha)


@pytest.mark.parametrize("alpha", ["0", "-0.5", "1.01", "nan", "inf", "half", "", "0.5,0.6"])
def test_an_alpha_that_is_none(alpha: str, move: Callable[..., Made], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is no number from") as caught:
        scale(move("llama-tied").adapter, alpha, tmp_path / "out", None, False, pytest.fail)
    assert "at 0 it is the base" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


def test_what_has_no_shares(make: Callable[..., Made], move: Callable[..., Made], tmp_path: Path) -> None:
    def refused(place: Path, kind: type[Exception], said: str, **more: Any) -> None:
        with pytest.raises(kind, match=said) as caught:
            scale(place, "0.5", tmp_path / "out", more.get("model"), False, pytest.fail)
        assert caught.value.hint  # type: ignore[attr-defined]
        assert not (tmp_path / "out").exists()

    whole, mask = make("llama-tied"), move("llama-tied", name="mask")
    manifest = dataclasses.replace(whole.manifest, method="prompt", settings={"kind": "input"})
    write_adapter(
        tmp_path / "prompt", {"prompt_embeddings": torch.ones(3, 32)}, manifest, {"peft_type": "PROMPT_TUNING"}, ""
    )
    refused(tmp_path / "prompt", AdapterError, "changes no weight")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    save_file(
        {"base_model.model.model.norm.ln_tuning_layers.weight": torch.ones(32)}, theirs / "adapter_model.safetensors"
    )
    (theirs / "adapter_config.json").write_text(json.dumps({"peft_type": "LN_TUNING", "target_modules": ["norm"]}))
    refused(theirs, AdapterError, "written by another program")
    refused(mask.adapter, RecipeError, "need no base", model=str(whole.base))
    other = save(build("llama-tied", seed=1), tmp_path / "other")
    refused(whole.adapter, AdapterError, "was made on", model=str(other))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(PlaceError):
        scale(mask.adapter, "0.5", tmp_path / "full", None, False, pytest.fail)


def test_the_command(move: Callable[..., Made], tmp_path: Path) -> None:
    made = move("llama-tied")
    done = CliRunner().invoke(
        app, ["scale", str(made.adapter), "--alpha", "0.5", "--out", str(tmp_path / "half"), "--json"]
    )
    assert done.exit_code == 0
    size = (tmp_path / "half" / "adapter_model.safetensors").stat().st_size
    assert json.loads(done.stdout) == {"folder": str(tmp_path / "half"), "bytes": size, "alpha": 0.5}
