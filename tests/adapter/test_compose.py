"""Mask adapters added to one: the sum of their dense changes, refused where numbers would be in two of them."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ctxtune.adapter.attach import attached
from ctxtune.adapter.compose import _within
from ctxtune.adapter.mask import DELTA, read_mask, sizes_text
from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.verify import verify
from ctxtune.adapter.write import write_adapter
from ctxtune.backend.mask import Part, numel
from ctxtune.cli.adapter import app
from ctxtune.commands.compose import compose
from ctxtune.commands.export import export
from ctxtune.errors import AdapterError, PlaceError, RecipeError

from .conftest import build, drawn, logits, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.mask import Kind

    from .conftest import Made, Moved

KINDS = ("rows", "columns", "blocks", "entries", "whole")


def dense_of(place: Path) -> dict[str, torch.Tensor]:
    """The whole of each D that a mask adapter holds."""
    adapter = open_adapter(place)
    tensors, found = load_file(adapter.path), {}
    for name, part in read_mask(adapter.path, adapter.header).items():
        found[name] = torch.zeros(part.size, dtype=torch.float64)
        found[name].view(-1)[torch.from_numpy(part.entries())] = tensors[name + DELTA].double().reshape(-1)
    return found


def added(*weighted: tuple[Moved, float]) -> dict[str, torch.Tensor]:
    """The same by hand."""
    found: dict[str, torch.Tensor] = {}
    for made, weight in weighted:
        for name, dense in made.dense.items():
            found[name] = found.get(name, 0) + weight * dense.double()
    return found


def check_sum(place: Path, kind: str, wanted: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    """The file holds the sum, and a model with it says what a model says to which it was added."""
    found = dense_of(place)
    assert found.keys() == wanted.keys()
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) <= tolerance
    adapter = open_adapter(place)
    assert all(check.ok for check in verify(adapter))
    model, other = build(kind), build(kind)
    plain = logits(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter += wanted.get(name, torch.zeros(())).float()
    with attached(model, adapter):
        assert (logits(model) - logits(other)).abs().max() <= 1e-5
        assert (logits(model) - plain).abs().max() > 0.01
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
def test_masks_without_common_numbers_add_up(
    kind: str, stored: torch.dtype, move: Callable[..., Moved], tmp_path: Path
) -> None:
    """Other tensors, and other entries of one tensor: to the last bit, in the type that they have."""
    one = move(kind, "columns", stored=stored, name="one")
    two = move(kind, "columns", stored=stored, name="two", seed=1, apart=one)
    done = compose([one.adapter, two.adapter], tmp_path / "sum")
    assert done.shared == 0
    assert done.numbers == one.manifest.trainable + two.manifest.trainable
    check_sum(tmp_path / "sum", kind, added((one, 1.0), (two, 1.0)))
    tensors = load_file(tmp_path / "sum" / "adapter_model.safetensors")
    assert {tensor.dtype for name, tensor in tensors.items() if name.endswith(DELTA)} == {stored}
    other = move(kind, "rows", r"(ln_1|layernorm)", stored=torch.float32, name="other")
    compose([one.adapter, two.adapter, other.adapter], tmp_path / "more")
    check_sum(tmp_path / "more", kind, added((one, 1.0), (two, 1.0), (other, 1.0)))


@pytest.mark.parametrize("shapes", [("columns", "columns"), ("entries", "rows"), ("blocks", "columns")])
def test_weights_where_masks_overlap(shapes: tuple[Kind, Kind], move: Callable[..., Moved], tmp_path: Path) -> None:
    one, two = (move("llama-untied", shape, seed=seed, name=f"made-{seed}") for seed, shape in enumerate(shapes))
    with pytest.raises(AdapterError, match="both move") as caught:
        compose([one.adapter, two.adapter], tmp_path / "sum")
    assert "--weights 0.5,0.5" in (caught.value.hint or "")
    assert not (tmp_path / "sum").exists()
    done = compose([one.adapter, two.adapter], tmp_path / "sum", "0.25,1.5")
    both = sum(int(((one.dense[name] != 0) & (two.dense[name] != 0)).sum()) for name in one.dense)
    assert done.shared == both > 0
    assert done.numbers == one.manifest.trainable + two.manifest.trainable - both
    check_sum(tmp_path / "sum", "llama-untied", added((one, 0.25), (two, 1.5)), 1e-8)
    kinds = {part.kind for part in read_mask(*_opened(tmp_path / "sum")).values()}
    assert kinds == ({"columns"} if shapes == ("columns", "columns") else {"entries"})


def _opened(place: Path) -> Any:
    adapter = open_adapter(place)
    return adapter.path, adapter.header


def test_the_refusal_counts_what_is_common(move: Callable[..., Moved], tmp_path: Path) -> None:
    one, two, three = (move("llama-tied", "entries", seed=seed, name=f"made-{seed}") for seed in range(3))
    common = {name: int(((one.dense[name] != 0) & (two.dense[name] != 0)).sum()) for name in one.dense}
    first = max(common, key=lambda name: common[name])
    said = rf"made-0 and .*made-1 both move {sum(common.values()):,} numbers: {common[first]:,} of "
    with pytest.raises(AdapterError, match=said + r".*, \.\.\. in 14 tensors"):
        compose([one.adapter, two.adapter, three.adapter], tmp_path / "sum")
    done = compose([one.adapter, two.adapter, three.adapter], tmp_path / "sum", "1,1,-1")
    check_sum(tmp_path / "sum", "llama-tied", added((one, 1.0), (two, 1.0), (three, -1.0)), 1e-8)
    times = {name: sum((made.dense[name] != 0).int() for made in (one, two, three)) for name in one.dense}
    assert done.shared == sum(int((count > 1).sum()) for count in times.values())


def test_whole_tensors_are_weighed(move: Callable[..., Moved], tmp_path: Path) -> None:
    one, two = (move("llama-tied", "columns", "layernorm", seed=seed, name=f"made-{seed}") for seed in range(2))
    compose([one.adapter, two.adapter], tmp_path / "sum", "0.5,0.5")
    check_sum(tmp_path / "sum", "llama-tied", added((one, 0.5), (two, 0.5)), 1e-8)
    assert {part.kind for part in read_mask(*_opened(tmp_path / "sum")).values()} == {"whole"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", KINDS)
def test_places_within_a_larger_part(kind: Kind, whole: Kind) -> None:
    part = drawn(kind, 0.1)
    full = Part(whole, part.size, np.arange(len(drawn(whole, 1.0).index)))
    assert np.array_equal(full.entries()[_within(part, full)], part.entries())


def test_the_sum_is_an_adapter_as_any_other(move: Callable[..., Moved], tmp_path: Path) -> None:
    """It says where it is from and nothing that was not measured; it can be exported."""
    one = move("llama-tied", "columns", r"\.0\..*q_proj", name="one")
    two = move("llama-tied", "entries", r"\.1\..*q_proj", name="two", seed=1)
    compose([one.adapter, two.adapter], tmp_path / "sum")
    manifest = open_adapter(tmp_path / "sum").manifest
    assert manifest is not None
    assert manifest.settings["composed"] == [str(made.adapter / "adapter_model.safetensors") for made in (one, two)]
    assert len(set(manifest.inputs.values())) == 2
    assert (manifest.scores.after, manifest.recipe) == ({}, one.manifest.recipe)
    export(tmp_path / "sum", "lora", tmp_path / "lora")
    model, other = build("llama-tied"), build("llama-tied")
    with attached(model, open_adapter(tmp_path / "sum")), attached(other, open_adapter(tmp_path / "lora")):
        assert (logits(model) - logits(other)).abs().max() <= 1e-5


def test_one_parameter_under_two_names(move: Callable[..., Moved], tmp_path: Path) -> None:
    """Of a tied head and its embeddings: two files cannot know that they are one."""
    one = move("llama-tied", "rows", "embed_tokens", name="one")
    two = move("llama-tied", "rows", "embed_tokens", name="two", seed=1)
    tensors = load_file(two.adapter / "adapter_model.safetensors")
    renamed = {name.replace("model.embed_tokens", "lm_head"): tensor for name, tensor in tensors.items()}
    (part,) = two.mask.values()
    write_adapter(tmp_path / "head", renamed, two.manifest, None, "card", sizes_text({"lm_head.weight": part}))
    compose([one.adapter, tmp_path / "head"], tmp_path / "sum")
    with (
        pytest.raises(AdapterError, match=r"embed_tokens\.weight and lm_head\.weight are one parameter"),
        attached(build("llama-tied"), open_adapter(tmp_path / "sum")),
    ):
        pass
    with pytest.raises(AdapterError, match="are one parameter"):
        export(tmp_path / "sum", "lora", tmp_path / "lora")


BAD = "one, freeze, mask alone, cut, changed, other base, no manifest, classes, full, no number, nan"


@pytest.mark.parametrize("what", BAD.split(", "))
def test_what_does_not_go_together(
    what: str, move: Callable[..., Moved], make: Callable[..., Made], tmp_path: Path
) -> None:
    one = move("llama-tied", "columns", r"\.0\..*q_proj", name="one")
    two = move("llama-tied", "columns", r"\.1\..*q_proj", name="two")
    places, out, weights, error, said = [one.adapter, two.adapter], tmp_path / "sum", None, AdapterError, ""
    file = two.adapter / "adapter_model.safetensors"
    if what == "one":
        places, error, said = places[:1], RecipeError, "two adapters or more"
    elif what == "freeze":
        places[1], said = make("gpt2-tied").adapter, "it is a freeze adapter of the container LN_TUNING"
    elif what in ("mask alone", "no manifest"):
        tensors = load_file(file)
        places[1], said = tmp_path / "other.safetensors", "does not say which base"
        if what == "mask alone":
            tensors, said = {n: t for n, t in tensors.items() if not n.endswith(DELTA)}, "and not by how much"
        header = open_adapter(two.adapter).header.metadata
        kept = {k: v for k, v in header.items() if k != "ctxtune_sha256" and (k != "ctxtune" or what == "mask alone")}
        save_file(tensors, places[1], kept)
    elif what == "cut":
        file.write_bytes(file.read_bytes()[:-3])
        said = "the header promises"
    elif what == "changed":
        file.write_bytes(file.read_bytes()[:-3] + b"abc")
        said = "is damaged"
    elif what == "other base":
        save(build("llama-tied", seed=5), one.base)
        places[1], said = move("llama-tied", "columns", r"\.1\..*k_proj", name="three").adapter, "was made on"
    elif what == "classes":
        other = dataclasses.replace(two.manifest, classes=["a", "b"])
        write_adapter(two.adapter, load_file(file), other, None, "card", sizes_text(two.mask))
        said = "tells apart"
    elif what == "full":
        out.mkdir()
        (out / "mine").write_text("x")
        error, said = PlaceError, "holds"
    else:
        weights, error = {"no number": "1", "nan": "1,nan"}[what], RecipeError
        said = "is not a number for each of 2 adapters"
    with pytest.raises(error, match=said):
        compose(places, out, weights)
    assert what == "full" or not out.exists()


def test_the_command(move: Callable[..., Moved], tmp_path: Path) -> None:
    one, two = (str(move("llama-tied", "columns", seed=seed, name=f"made-{seed}").adapter) for seed in range(2))
    words = ["compose", one, two, "--out", str(tmp_path / "sum"), "--weights", "0.5,0.5"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["folder"] == str(tmp_path / "sum")
    assert facts["numbers"] == numel(read_mask(*_opened(tmp_path / "sum")))
    assert f"{facts['numbers']:,} numbers of 2 adapters, {facts['shared']:,} of them in several" in done.stderr
