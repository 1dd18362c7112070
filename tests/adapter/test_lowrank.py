"""An adapter exported as LoRA: exact where the rank suffices, else the nearest, with the energy that was kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ctxtune.adapter.attach import attached
from ctxtune.adapter.mask import sizes_text
from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.verify import verify
from ctxtune.cli.adapter import app
from ctxtune.commands.export import export
from ctxtune.errors import AdapterError, RecipeError

from .conftest import MATRICES, build, logits, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Made, Moved

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's own
EVERYTHING = MATRICES + r"|norm|\.ln_|bias$|embed|wte|lm_head"


def check_exact(kind: str, made: Made, folder: Path) -> None:
    """PEFT and ctxtune both say with the export what the adapter says."""
    from peft import PeftModel

    assert (made.logits - made.base_logits).abs().max() > 0.01
    adapter = open_adapter(folder)
    assert all(check.ok for check in verify(adapter)), verify(adapter)
    model = build(kind)
    with attached(model, adapter):
        assert (logits(model) - made.logits).abs().max() <= 1e-5
    assert (logits(PeftModel.from_pretrained(build(kind), folder).eval()) - made.logits).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("shape", "pattern"),
    [("columns", MATRICES), ("entries", EVERYTHING), ("rows", EVERYTHING), ("blocks", MATRICES)],
)
@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "bert-tied", "llama-untied"])
def test_a_mask_at_full_rank(kind: str, shape: str, pattern: str, move: Callable[..., Moved], tmp_path: Path) -> None:
    made = move(kind, shape, pattern)
    low = export(made.adapter, "lora", tmp_path / "lora").low
    assert low is not None
    assert low.kept == pytest.approx(1.0, abs=1e-9)
    check_exact(kind, made, tmp_path / "lora")


@pytest.mark.parametrize("part", ["last", "all"])
@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-untied", "bert-tied"])
def test_whole_layers_at_full_rank(kind: str, part: str, make: Callable[..., Made], tmp_path: Path) -> None:
    made = make(kind, part)
    export(made.adapter, "lora", tmp_path / "lora")
    check_exact(kind, made, tmp_path / "lora")
    manifest = open_adapter(tmp_path / "lora").manifest
    assert manifest is not None
    assert (manifest.method, manifest.settings["from"], manifest.scores) == ("lora", "freeze", made.manifest.scores)


@pytest.mark.parametrize("shape", ["columns", "entries"])
@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
def test_a_lower_rank_is_the_nearest(kind: str, shape: str, move: Callable[..., Moved], tmp_path: Path) -> None:
    """The energy is that of the singular values of the whole of each D; so is what is lost of it."""
    made = move(kind, shape)
    low = export(made.adapter, "lora", tmp_path / "lora", rank=2).low
    assert low is not None
    values = {name: torch.linalg.svdvals(dense.double()).square() for name, dense in made.dense.items()}
    total, kept = (sum(float(some[:r].sum()) for some in values.values()) for r in (None, 2))
    assert low.kept == pytest.approx(kept / total, abs=1e-6)
    shares = {name: float(some[:2].sum() / some.sum()) for name, some in values.items()}
    assert low.worst_kept == pytest.approx(min(shares.values()), abs=1e-6)
    assert shares[low.worst] == pytest.approx(low.worst_kept, abs=1e-6)
    adapter = open_adapter(tmp_path / "lora")
    model, base = build(kind), dict(build(kind).named_parameters())
    with attached(model, adapter):
        for name, parameter in model.named_parameters():
            if name in made.dense:
                lost = (parameter - base[name] - made.dense[name]).double().square().sum()
                assert float(lost) == pytest.approx(float(values[name][2:].sum()), rel=1e-3)
    assert all(check.ok for check in verify(adapter))
    assert adapter.manifest is not None
    assert adapter.manifest.settings["energy kept"] == pytest.approx(low.kept, abs=1e-8)
    assert not adapter.manifest.scores.after  # nobody has measured it


def test_columns_are_never_made_dense(
    move: Callable[..., Moved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = move("llama-untied", "columns")
    seen, svd = [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda matrix, **more: (seen.append(matrix.shape), svd(matrix, **more))[1])
    export(made.adapter, "lora", tmp_path / "lora")
    assert seen == [(part.size[0], len(part.index)) for part in made.mask.values()]
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    wide = {name for name, part in made.mask.items() if len(part.index) != config["r"]}
    assert {name.replace("\\", "") + ".weight" for name in config["rank_pattern"]} == wide
    assert wide


def test_what_has_not_moved_is_left_out(move: Callable[..., Moved], tmp_path: Path) -> None:
    made = move("llama-tied", "columns")
    still, path = "model.layers.1.mlp.up_proj.weight", made.adapter / "adapter_model.safetensors"
    header, tensors = open_adapter(path).header.metadata, load_file(path)
    tensors[f"{still}.delta"].zero_()
    del header["ctxtune_sha256"]
    save_file(tensors, tmp_path / "still.safetensors", header)
    low = export(tmp_path / "still.safetensors", "lora", tmp_path / "lora").low
    assert low is not None
    assert low.matrices == len(made.mask) - 1
    targets = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["target_modules"]
    assert still.removesuffix(".weight") not in targets


@pytest.mark.parametrize("what", ["norms", "lora", "other base", "other shape", "mask alone", "rank of peft", "cut"])
def test_what_is_no_lora(what: str, move: Callable[..., Moved], tmp_path: Path) -> None:
    made = move("llama-tied", "columns", "norm" if what == "norms" else MATRICES)
    place, base, force, said = made.adapter, None, False, ""
    if what == "norms":
        said = "changes no matrix"
    elif what == "lora":
        export(place, "lora", tmp_path / "first")
        place, said = tmp_path / "first", "is LoRA already"
    elif what == "other base":
        base, said = str(save(build("llama-tied", seed=5), tmp_path / "other")), "was made on"
    elif what == "other shape":
        base, force, said = str(save(build("gpt2-tied"), tmp_path / "other")), True, "has no parameter model.layers.0"
    elif what == "mask alone":
        tensors = load_file(place / "adapter_model.safetensors")
        place, base, said = tmp_path / "mask.safetensors", str(made.base), "and not by how much"
        save_file({n: t for n, t in tensors.items() if not n.endswith(".delta")}, place, sizes_text(made.mask))
    elif what == "cut":
        path, said = place / "adapter_model.safetensors", "the header promises"
        path.write_bytes(path.read_bytes()[:-10])
    if what == "rank of peft":
        with pytest.raises(RecipeError, match="--rank is for --to lora"):
            export(place, "peft", tmp_path / "x", rank=3)
    else:
        with pytest.raises(AdapterError, match=said):
            export(place, "lora", tmp_path / "x", base, force=force)
    assert not (tmp_path / "x").exists()


def test_the_command_says_what_is_kept(move: Callable[..., Moved], tmp_path: Path) -> None:
    made = move("llama-tied", "entries")
    words = ["export", str(made.adapter), "--to", "lora", "--rank", "3", "--out", str(tmp_path / "lora"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["container"], facts["rank"], facts["matrices"]) == ("LORA", 3, 14)
    assert 0 < facts["worst"]["energy_kept"] <= facts["energy_kept"] < 1
    assert f"keeps {facts['energy_kept']:.4f} of the energy of the changes" in done.stderr
    assert "None were measured" in (tmp_path / "lora" / "README.md").read_text()
