"""How far a mask adapter moves, by layer and kind: the numbers are those of the whole of each D, and fit on a screen."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ctxtune.adapter.extent import extents, places_of
from ctxtune.adapter.mask import sizes_text
from ctxtune.adapter.read import open_adapter
from ctxtune.cli import extent
from ctxtune.cli.adapter import _said, app
from ctxtune.commands.adapter import show
from ctxtune.errors import AdapterError, RecipeError
from ctxtune.recipe.mask import Mask

from .conftest import MATRICES, build, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Made, Moved

EVERYTHING = MATRICES + r"|layernorm|ln_1|bias$|embed|wte"


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama-untied", "gpt2-tied", "bert-tied"])
def test_shares_and_sizes_are_those_of_the_dense_changes(
    kind: str, stored: torch.dtype, move: Callable[..., Moved]
) -> None:
    made = move(kind, "entries", EVERYTHING, stored=stored)
    weights, places = dict(build(kind).named_parameters()), places_of(made.mask)
    shown = show(made.adapter, str(made.base))
    assert shown.note is None
    cells = {(one.layer, one.kind): one for one in shown.moved or []}
    assert set(cells) == set(places.values())
    for place, cell in cells.items():
        names = [name for name in made.mask if places[name] == place]
        at = [torch.from_numpy(made.mask[name].entries()) for name in names]
        change = torch.cat([made.dense[name].reshape(-1)[some] for name, some in zip(names, at, strict=True)]).double()
        base = torch.cat([weights[name].reshape(-1)[some] for name, some in zip(names, at, strict=True)]).double()
        assert (cell.moved, cell.numbers) == (len(change), sum(weights[name].numel() for name in names))
        assert cell.rms == pytest.approx(float(change.square().mean().sqrt()), rel=1e-12)
        assert cell.relative == pytest.approx(float(change.norm() / base.norm()), rel=1e-12)
    assert [one.relative for one in show(made.adapter).moved or []] == [None] * len(cells)


def test_kinds_are_told_apart_by_the_shortest_names() -> None:
    llama = [
        f"model.layers.11.{name}" for name in ("self_attn.q_proj.weight", "mlp.up_proj.weight", "mlp.up_proj.bias")
    ]
    found = places_of([*llama, "model.layers.11.input_layernorm.weight", "model.norm.weight", "lm_head.weight"])
    assert set(found.values()) == {
        (11, "q"),
        (11, "up"),
        (11, "biases"),
        (11, "norms"),
        (None, "norm"),
        (None, "lm_head"),
    }
    gpt2 = places_of(f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_proj", "ln_1"))
    assert {kind for _, kind in gpt2.values()} == {"c_attn", "attn.c_proj", "mlp.c_proj", "norms"}
    bert = places_of(
        f"bert.encoder.layer.0.{name}.weight"
        for name in ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
    )
    kinds = {kind for _, kind in bert.values()}
    assert kinds == {"query", "attention.output.dense", "intermediate.dense", "output.dense"}


def test_the_table_fits_on_a_screen(move: Callable[..., Moved]) -> None:
    from rich.console import Console

    made = move("llama-untied", "columns", EVERYTHING)
    console = Console(width=80, record=True, file=None)
    moved = show(made.adapter, str(made.base)).moved or []
    with console.capture() as text:
        for table in extent.tables(moved):
            console.print(table)
    told = text.get()
    lines = told.splitlines()
    heads = [line.split() for line in lines if "layer" in line]
    assert heads == [["layer", "q", "k", "v", "o", "gate", "up", "down", "norms"]] * 2
    assert sum(line.split()[:1] == ["1"] for line in lines) == 2
    share = next(one.share for one in moved if (one.layer, one.kind) == (1, "down"))
    assert next(line.split() for line in lines if line.split()[:1] == ["1"])[7] == f"{100 * share:.1f}"
    assert "embed_tokens" in told
    assert max(map(len, lines)) <= 80


def test_show_prints_it(move: Callable[..., Moved], make: Callable[..., Made]) -> None:
    made = move("llama-tied", "rows")
    done = CliRunner().invoke(app, ["show", str(made.adapter)])
    assert done.exit_code == 0, done.output
    assert "moved: share that moves, %; root mean square of the changes D, in 1e-02" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("layer 1: "))
    assert [cell.split()[0] for cell in line.partition(": ")[2].split(", ")] == [
        "q",
        "k",
        "v",
        "o",
        "gate",
        "up",
        "down",
    ]
    done = CliRunner().invoke(app, ["show", str(made.adapter), "--model", str(made.base), "--json"])
    facts = json.loads(done.stdout)
    assert len(facts["moved"]) == 14
    assert facts["moved"][0].keys() == {"layer", "kind", "moved", "numbers", "share", "rms", "relative"}
    assert sum(cell["moved"] for cell in facts["moved"]) == made.manifest.trainable
    assert (
        json.loads(CliRunner().invoke(app, ["show", str(make("gpt2-tied").adapter), "--json"]).stdout)["moved"] is None
    )


def test_a_mask_alone_has_shares_and_no_sizes(move: Callable[..., Moved], tmp_path: Path) -> None:
    made = move("llama-tied", "entries")
    tensors = load_file(made.adapter / "adapter_model.safetensors")
    alone = {name: tensor for name, tensor in tensors.items() if not name.endswith(".delta")}
    save_file(alone, tmp_path / "mask.safetensors", sizes_text(made.mask))
    done = CliRunner().invoke(app, ["show", str(tmp_path / "mask.safetensors"), "--json"])
    cells = json.loads(done.stdout)["moved"]
    assert {cell["share"] for cell in cells} == {one.share for one in show(made.adapter).moved or []}
    assert {(cell["rms"], cell["relative"]) for cell in cells} == {(None, None)}
    text = CliRunner().invoke(app, ["show", str(tmp_path / "mask.safetensors")]).stdout
    assert "moved: share that moves, %\n" in text


def test_numbers_that_are_none_are_no_json(move: Callable[..., Moved], tmp_path: Path) -> None:
    made = move("llama-tied", "columns", stored=torch.float32)
    tensors = load_file(made.adapter / "adapter_model.safetensors")
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor[0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors", sizes_text(made.mask))
    done = CliRunner().invoke(app, ["show", str(tmp_path / "nan.safetensors"), "--json"])
    assert {cell["rms"] for cell in json.loads(done.stdout, parse_constant=pytest.fail)["moved"]} == {None}


@pytest.mark.parametrize("what", ["other container", "other base", "cut", "other shape"])
def test_what_cannot_be_shown(what: str, move: Callable[..., Moved], make: Callable[..., Made], tmp_path: Path) -> None:
    made = move("llama-tied", "columns")
    place, base, error, said = made.adapter, str(made.base), AdapterError, ""
    if what == "other container":
        place, error, said = make("gpt2-tied").adapter, RecipeError, "--model is for mask adapters"
    elif what == "other base":
        base, said = str(save(build("llama-tied", seed=5), tmp_path / "other")), "was made on"
    elif what == "cut":
        file = place / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
        said = "the header promises"
    else:  # a file that does not say which base it is for
        place, said = tmp_path / "mask.safetensors", r"at model\.layers.*, the adapter \[32, 32\]"
        save_file(load_file(made.adapter / "adapter_model.safetensors"), place, sizes_text(made.mask))
        shutil.rmtree(made.base)
        other: Any = build("llama-tied")
        other.model.layers[0].self_attn.q_proj.weight = torch.nn.Parameter(torch.zeros(32, 16))
        save(other, made.base)
    with pytest.raises(error, match=said):
        show(place, base)


def test_what_lies_in_no_layer_stands_at_the_end(move: Callable[..., Moved]) -> None:
    moved = extents(open_adapter(move("gpt2-tied", "entries", "wte|h.1.attn.c_attn.weight").adapter))
    assert [(one.layer, one.kind) for one in moved] == [(1, "c_attn"), (None, "wte")]


def test_settings_that_play_no_part_are_not_shown() -> None:
    shown = dict(_said(Mask(name="mask", select="fisher", density=0.1).model_dump(exclude={"name"})))
    assert shown["density"] == 0.1
    assert "score_batches" in shown
    assert not {"rank", "regrow", "decide", "combine"} & set(shown)
    assert "candidates" in dict(_said({"select": "influence", "candidates": 64}))  # of demonstrations
