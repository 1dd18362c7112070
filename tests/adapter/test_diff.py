"""Where two adapters differ: the numbers are those of dense tensors compared by torch, and nothing imports torch for them."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ctxtune.adapter.attach import attached
from ctxtune.adapter.diff import Distance
from ctxtune.adapter.mask import DELTA, sizes_text
from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.write import write_adapter
from ctxtune.cli.adapter import app
from ctxtune.commands.diff import diff
from ctxtune.commands.export import export
from ctxtune.errors import AdapterError

from .conftest import build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.mask import Kind

    from .conftest import Made, Moved

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's own


def check(part: Any, a: torch.Tensor, b: torch.Tensor, largest: bool = True) -> None:
    """A part says of the numbers of two tensors what torch says."""
    a, b = a.double().reshape(-1), b.double().reshape(-1)
    assert part.relative == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-9, abs=1e-9)
    assert part.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(a, b, 0)), rel=1e-9)
    assert part.largest == (pytest.approx(float((a - b).abs().max()), rel=1e-9) if largest else None)


@pytest.mark.parametrize(("one", "other"), [("columns", "columns"), ("entries", "rows"), ("blocks", "entries")])
def test_masks_differ_as_their_dense_changes(
    one: Kind, other: Kind, move: Callable[..., Moved], tmp_path: Path
) -> None:
    mine, theirs = move("llama-tied", one, name="mine"), move("llama-tied", other, seed=1, name="theirs")
    found = diff(mine.adapter, theirs.adapter).difference
    assert [part.name for part in found.parts] == ["layer 0", "layer 1"]
    layers = [[name for name in mine.dense if f".{layer}." in name] for layer in (0, 1)]
    for part, names in zip([*found.parts, found.all], [*layers, list(mine.dense)], strict=True):
        a, b = (torch.cat([made.dense[name].reshape(-1) for name in names]) for made in (mine, theirs))
        check(part, a, b)
        shared, either = int(((a != 0) & (b != 0)).sum()), int(((a != 0) | (b != 0)).sum())
        assert part.overlap is not None
        assert (part.overlap.shared, part.overlap.either) == (shared, either)


def test_what_one_mask_lacks(move: Callable[..., Moved]) -> None:
    mine = move("llama-tied", "columns", r"\.0\..*(q|k)_proj", name="mine")
    theirs = move("llama-tied", "columns", r"(\.0\..*k_proj|\.1\..*q_proj)", name="theirs")
    found = diff(mine.adapter, theirs.adapter).difference
    assert (found.only_one, found.only_other) == (
        ["model.layers.0.self_attn.q_proj.weight"],
        ["model.layers.1.self_attn.q_proj.weight"],
    )
    assert found.parts[1].relative is None  # the first has nothing there
    assert found.parts[1].cosine is None


def test_equal_adapters(move: Callable[..., Moved], make: Callable[..., Made], tmp_path: Path) -> None:
    made = move("llama-tied", "entries")
    export(made.adapter, "lora", tmp_path / "lora")
    for place in (made.adapter, make("gpt2-tied").adapter, tmp_path / "lora"):
        compared = diff(place, place)
        assert compared.told == {}
        assert compared.difference.all.relative == pytest.approx(0.0, abs=1e-12)
        assert compared.difference.all.cosine == pytest.approx(1.0)
    done = CliRunner().invoke(app, ["diff", str(made.adapter), str(made.adapter)])
    assert "2 of 2 parts are the same" in done.stdout


def test_whole_layers(make: Callable[..., Made], tmp_path: Path) -> None:
    """Tensor by tensor; those of other shapes, and of one side, are named."""
    made = make("llama-tied")
    tensors = load_file(made.adapter / "adapter_model.safetensors")
    names = list(tensors)
    changed = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in tensors.items()}
    del changed[names[0]]
    changed[names[1]] = tensors[names[1]].clone()
    changed[names[2]] = torch.zeros(3, 5)
    manifest = dataclasses.replace(made.manifest, seed=7, settings={"layers": "last:2"})
    write_adapter(tmp_path / "other", changed, manifest, None, "card")
    compared = diff(made.adapter, tmp_path / "other")
    found = compared.difference
    assert compared.told == {"seed": (0, 7), "settings: layers": ("last:1", "last:2")}
    assert (found.only_one, found.only_other, found.other_shape) == ([names[0]], [], [names[2]])
    parts = {part.name: part for part in found.parts}
    assert set(parts) == set(names) - {names[0], names[2]}
    for name, part in parts.items():
        check(part, tensors[name], changed[name])
    assert parts[names[1]].apart == 0


def test_a_large_tensor_is_compared_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctxtune.adapter import diff as module
    from ctxtune.adapter.container import layer_tensors

    monkeypatch.setattr(module, "_CHUNK", 100)
    pair = [torch.randn(33, 31, dtype=dtype) for dtype in (torch.float16, torch.float64)]
    for name, tensor in zip("ab", pair, strict=True):
        save_file(layer_tensors({"m": {"weight": tensor}}), tmp_path / f"{name}.safetensors")
    (part,) = diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors").difference.parts
    check(part, *pair)


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
def test_low_ranks_differ_as_their_products(kind: str, move: Callable[..., Moved], tmp_path: Path) -> None:
    """Of any rank and scale; the factors themselves are of no interest."""
    made = [move(kind, "columns", seed=seed, name=f"made-{seed}") for seed in range(2)]
    dense = []
    for number, (one, rank) in enumerate(zip(made, (None, 2), strict=True)):
        folder = tmp_path / f"lora-{number}"
        export(one.adapter, "lora", folder, rank=rank)
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text())
        config |= {"lora_alpha": config["lora_alpha"] * (number + 1), "alpha_pattern": {}}
        path.write_text(json.dumps(config))
        model, base = build(kind).double(), dict(build(kind).double().named_parameters())
        with attached(model, open_adapter(folder)):
            dense.append({name: value - base[name] for name, value in model.named_parameters() if name in one.dense})
    found = diff(tmp_path / "lora-0", tmp_path / "lora-1").difference
    assert {part.name + ".weight" for part in found.parts} == set(made[0].dense)
    for part in found.parts:
        check(part, *(some[part.name + ".weight"] for some in dense), largest=False)


def test_low_ranks_of_other_modules(move: Callable[..., Moved], tmp_path: Path) -> None:
    for number, pattern in enumerate((r"\.0\..*(q|k)_proj|layernorm", r"\.0\..*(k|v)_proj")):
        made = move("llama-tied", "columns", pattern, name=f"made-{number}")
        export(made.adapter, "lora", tmp_path / f"lora-{number}")
    found = diff(tmp_path / "lora-0", tmp_path / "lora-1").difference
    assert found.only_other == ["model.layers.0.self_attn.v_proj"]
    assert "model.layers.0.self_attn.q_proj" in found.only_one
    assert "base_model.model.model.layers.0.input_layernorm.weight" in found.only_one
    assert [part.name for part in found.parts] == ["model.layers.0.self_attn.k_proj"]


def test_a_mask_alone_has_no_distance(move: Callable[..., Moved], tmp_path: Path) -> None:
    mine, theirs = (move("llama-tied", "columns", seed=seed, name=f"made-{seed}") for seed in range(2))
    tensors = load_file(theirs.adapter / "adapter_model.safetensors")
    alone = {name: tensor for name, tensor in tensors.items() if not name.endswith(DELTA)}
    save_file(alone, tmp_path / "mask.safetensors", sizes_text(theirs.mask))
    done = CliRunner().invoke(app, ["diff", str(mine.adapter), str(tmp_path / "mask.safetensors"), "--json"])
    facts = json.loads(done.stdout)
    assert facts["all"] == {"jaccard": facts["all"]["jaccard"], "cosine": None, "relative": None, "largest": None}
    assert 0 < facts["all"]["jaccard"] < 1
    assert facts["told"] == {**facts["told"], "manifest": [None, "none"]}


def test_what_is_no_number_is_not_passed_over() -> None:
    """Whatever comes before or after it, in a part and in all of them together."""
    first, second, both = Distance("a"), Distance("b"), Distance("all")
    for numbers in ([np.nan, 0.0], [32.0, 1.0]):
        first.add(np.array(numbers), np.zeros(2))
    second.add(np.array([32.0, np.nan]), np.zeros(2))
    for part in (Distance("c", largest=1.0), second, Distance("d", largest=64.0)):
        both.join(part)
    assert all(math.isnan(part.largest or 0.0) for part in (first, second, both))


def test_a_damaged_file_is_not_compared(move: Callable[..., Moved]) -> None:
    mine, theirs = (move("llama-tied", "columns", name=name) for name in ("mine", "theirs"))
    path = open_adapter(theirs.adapter).path
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    for pair in ((mine.adapter, theirs.adapter), (theirs.adapter, mine.adapter)):
        with pytest.raises(AdapterError, match="is damaged"):
            diff(*pair)


def test_the_table_is_narrow(move: Callable[..., Moved]) -> None:
    from rich.console import Console

    from ctxtune.cli import diff as drawn

    mine, theirs = (move("llama-tied", "columns", seed=seed, name=f"made-{seed}") for seed in range(2))
    console = Console(width=80)
    with console.capture() as text:
        for table in drawn.tables(diff(mine.adapter, theirs.adapter)):
            console.print(table)
    rows = [line.split() for line in text.get().splitlines()]
    assert ["part", "jaccard", "cosine", "relative", "largest"] in rows
    (row,) = (row for row in rows if row[:2] == ["layer", "1"])
    part = diff(mine.adapter, theirs.adapter).difference.parts[1]
    assert part.overlap is not None
    assert row[2:] == [f"{value:.4g}" for value in (part.overlap.jaccard, part.cosine, part.relative, part.largest)]


@pytest.mark.parametrize("what", ["kinds", "cut", "sizes", "shira", "types"])
def test_what_cannot_be_compared(
    what: str, move: Callable[..., Moved], make: Callable[..., Made], tmp_path: Path
) -> None:
    made, other, said = move("llama-tied", "columns"), make("gpt2-tied").adapter, "they hold other things"
    one = made.adapter
    if what == "cut":
        file = other / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-3])
        said = "the header promises"
    elif what == "sizes":
        part = next(iter(made.mask.values()))
        name = next(iter(made.mask))
        tensors = {f"{name}.entries": torch.zeros(1, dtype=torch.uint8), name + DELTA: torch.ones(1)}
        other, said = tmp_path / "other.safetensors", "in one mask and"
        save_file(tensors, other, sizes_text({name: dataclasses.replace(part, size=(4, 4))}))
    elif what == "shira":
        export(one, "peft", tmp_path / "peft")
        one = other = tmp_path / "peft"
        said = "SHIRA, which is not compared"
    elif what == "types":
        one = other = tmp_path / "ints.safetensors"
        save_file({"base_model.model.m.ln_tuning_layers.weight": torch.ones(3, dtype=torch.int32)}, one)
        said = "only floats are compared"
    with pytest.raises(AdapterError, match=said):
        diff(one, other)


def test_no_torch(move: Callable[..., Moved]) -> None:
    made = move("llama-tied", "columns")
    code = (
        "import sys; from pathlib import Path; from ctxtune.commands.diff import diff; "
        "diff(Path(sys.argv[1]), Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(made.adapter)], check=True, timeout=60)
