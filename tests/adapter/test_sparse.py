"""A mask adapter exported to PEFT says what the adapter says; what PEFT cannot hold is refused by name."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ctxtune.adapter.attach import attached
from ctxtune.adapter.mask import sizes_text
from ctxtune.adapter.merge import merge
from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.shira import padded
from ctxtune.adapter.verify import verify
from ctxtune.backend.mask import Part
from ctxtune.cli.adapter import app
from ctxtune.commands.export import export
from ctxtune.errors import AdapterError

from .conftest import MATRICES, build, drawn, logits, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.mask import Kind

    from .conftest import Moved

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's own


def told_by_peft(kind: str, folder: Path) -> torch.Tensor:
    from peft import PeftModel

    return logits(PeftModel.from_pretrained(build(kind), folder).eval())


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", ["columns", "rows", "entries"])
@pytest.mark.parametrize("kind", ["llama-tied", "bert-tied"])
def test_peft_says_what_a_mask_says(
    kind: str, shape: str, stored: torch.dtype, move: Callable[..., Moved], tmp_path: Path
) -> None:
    made = move(kind, shape, stored=stored)
    done = export(made.adapter, "peft", tmp_path / "peft")
    assert (told_by_peft(kind, tmp_path / "peft") - made.logits).abs().max() <= 1e-5
    assert (made.logits - made.base_logits).abs().max() > 0.01
    adapter = open_adapter(tmp_path / "peft")
    assert adapter.container == "SHIRA"
    assert all(check.ok for check in verify(adapter))
    model = build(kind)
    with attached(model, adapter):  # ctxtune reads it as well
        assert (logits(model) - made.logits).abs().max() <= 1e-5
    assert done.sparse is not None
    assert done.sparse.padding == sum(done.sparse.r * sum(part.size) - part.numel for part in made.mask.values())


@pytest.mark.parametrize("shape", ["columns", "entries"])
def test_the_file_holds_every_change_and_nothing_else(shape: Kind, move: Callable[..., Moved], tmp_path: Path) -> None:
    made = move("llama-untied", shape)
    export(made.adapter, "peft", tmp_path / "peft")
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    r = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["r"]
    for name, dense in made.dense.items():
        place = f"base_model.model.{name.removesuffix('.weight')}"
        rows, columns = tensors.pop(f"{place}.shira_indices").long()
        values = tensors.pop(f"{place}.shira_weight")
        assert len(values) == r * sum(dense.shape) == len(set(zip(rows.tolist(), columns.tolist(), strict=True)))
        found = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, dense.shape).to_dense()
        assert torch.equal(found, dense)
    assert not tensors
    assert r == max(math.ceil(part.numel / sum(part.size)) for part in made.mask.values())


@pytest.mark.parametrize("index", [[0, 1, 2, 3], [20, 21, 22, 23], [0, 9, 10, 23], list(range(1, 24, 2))])
def test_padding_where_the_places_are_taken(index: list[int]) -> None:
    part = Part("entries", (4, 6), np.array(index))
    values = np.arange(1.0, 1 + len(index))
    weight, (rows, columns) = padded(part, values, 2)
    places = rows * 6 + columns
    assert sorted(set(places.tolist())) == places.tolist()
    assert len(places) == len(weight) == 20
    assert (
        dict(zip(places.tolist(), weight.tolist(), strict=True)).items()
        >= dict(zip(index, values.tolist(), strict=True)).items()
    )
    assert weight.sum() == values.sum()


@pytest.mark.parametrize("kind", ["rows", "columns", "blocks", "entries"])
def test_padding_of_every_shape(kind: Kind) -> None:
    part = drawn(kind, 0.1)
    values = np.arange(1.0, 1 + part.numel)
    dense, found = np.zeros(part.size), np.zeros(part.size)
    dense.reshape(-1)[part.entries()] = values
    weight, (rows, columns) = padded(part, values.reshape(part.shape), 10)
    found[rows, columns] = weight
    assert len(weight) == 10 * sum(part.size)
    assert np.array_equal(found, dense)


@pytest.mark.parametrize(
    ("kind", "pattern", "container"),
    [
        ("llama-tied", r"layernorm|model\.norm", "LN_TUNING"),
        ("gpt2-tied", r"ln_", "LN_TUNING"),
        ("llama-tied", r"q_proj|layernorm", "SHIRA"),
        ("bert-tied", r"query\.weight|\.LayerNorm\.bias", "SHIRA"),
    ],
)
def test_norms_are_written_whole(
    kind: str, pattern: str, container: str, move: Callable[..., Moved], tmp_path: Path
) -> None:
    made = move(kind, "columns", pattern)
    export(made.adapter, "peft", tmp_path / "peft")
    assert (told_by_peft(kind, tmp_path / "peft") - made.logits).abs().max() <= 1e-5
    assert (made.logits - made.base_logits).abs().max() > 0.01
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["peft_type"] == container
    norms = {name.rpartition(".")[0] for name, part in made.mask.items() if len(part.size) == 1}
    assert set(config["target_modules" if container == "LN_TUNING" else "modules_to_save"]) == norms
    model = build(kind)
    with attached(model, open_adapter(tmp_path / "peft")):
        assert (logits(model) - made.logits).abs().max() <= 1e-5


def test_what_is_exported_merges(move: Callable[..., Moved], tmp_path: Path) -> None:
    made = move("llama-untied", "rows")
    export(made.adapter, "peft", tmp_path / "peft")
    for number, place in enumerate((made.adapter, tmp_path / "peft")):
        merge(made.base, open_adapter(place), tmp_path / f"merged-{number}")
    one, other = (load_file(tmp_path / f"merged-{number}" / "model.safetensors") for number in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_shira_of_peft_is_read(tmp_path: Path) -> None:
    """One that PEFT made, with its own places and random changes."""
    from peft import ShiraConfig, get_peft_model

    config = ShiraConfig(r=2, target_modules=["q_proj", "down_proj"], init_weights=False, random_seed=0)
    theirs = get_peft_model(build("llama-tied"), config).eval()
    expected = logits(theirs)
    theirs.save_pretrained(tmp_path / "shira")
    adapter = open_adapter(tmp_path / "shira")
    assert (adapter.kind, adapter.container) == ("shira", "SHIRA")
    assert all(check.ok for check in verify(adapter))
    model = build("llama-tied")
    assert (expected - logits(model)).abs().max() > 0.01
    with attached(model, adapter):
        assert (logits(model) - expected).abs().max() <= 1e-5


BROKEN: list[tuple[Any, str]] = [
    (lambda tensors, weight, indices: tensors.pop(indices), "stands without its partner"),
    (lambda tensors, weight, indices: tensors.update({indices: tensors[indices][:, 1:].clone()}), "do not fit"),
    (lambda tensors, weight, indices: tensors.update({indices: tensors[indices].to(torch.uint8)}), "do not fit"),
    (lambda tensors, weight, indices: tensors[indices].fill_(99), "has places outside of"),
    (lambda tensors, weight, indices: tensors[indices].fill_(-1), "has places outside of"),
    (lambda tensors, weight, indices: tensors.update({"odd": tensors.pop(weight)}), "'odd' is not named as PEFT"),
]


@pytest.mark.parametrize(("harm", "said"), BROKEN, ids=[f"{n} {said}" for n, (_, said) in enumerate(BROKEN)])
def test_a_broken_shira(harm: Any, said: str, move: Callable[..., Moved], tmp_path: Path) -> None:
    made = move("llama-tied", "columns")
    export(made.adapter, "peft", tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = load_file(path)
    place = "base_model.model.model.layers.0.self_attn.q_proj."
    harm(tensors, place + "shira_weight", place + "shira_indices")
    save_file(tensors, path)
    model = build("llama-tied")
    before = logits(model)
    with pytest.raises(AdapterError, match=said), attached(model, open_adapter(path.parent)):
        pass
    assert torch.equal(logits(model), before)


REFUSED = [
    (
        "llama-untied",
        "entries",
        "embed_tokens",
        0.1,
        "embed_tokens.weight, some of the weight of a Embedding, has no place",
    ),
    ("llama-tied", "entries", "embed_tokens", 0.1, "embed_tokens.weight is also lm_head.weight"),
    ("gpt2-tied", "columns", MATRICES, 0.1, "c_attn.weight, some of the weight of a Conv1D, has no place"),
    ("bert-tied", "columns", "query.bias", 0.1, "query.bias, bias of a Linear, has no place"),
    (
        "llama-tied",
        "entries",
        MATRICES,
        1.0,
        "1,536 numbers of .*gate_proj.weight need r = 20, and .*k_proj",
    ),
]


@pytest.mark.parametrize(("kind", "shape", "pattern", "share", "said"), REFUSED, ids=[row[4][:30] for row in REFUSED])
def test_what_peft_cannot_hold(
    kind: str, shape: str, pattern: str, share: float, said: str, move: Callable[..., Moved], tmp_path: Path
) -> None:
    made = move(kind, shape, pattern, share)
    with pytest.raises(AdapterError, match=said) as caught:
        export(made.adapter, "peft", tmp_path / "peft")
    assert "adapter merge" in (caught.value.hint or "")
    assert not (tmp_path / "peft").exists()


def test_unkind_places(move: Callable[..., Moved], tmp_path: Path) -> None:
    made = move("llama-tied", "columns")
    other = save(build("llama-tied", seed=5), tmp_path / "other")
    with pytest.raises(AdapterError, match="was made on"):
        export(made.adapter, "peft", tmp_path / "peft", str(other))
    note = export(made.adapter, "peft", tmp_path / "forced", str(other), force=True).note
    assert "was made on" in (note or "")
    tensors = load_file(made.adapter / "adapter_model.safetensors")
    save_file(tensors, tmp_path / "bare.safetensors", sizes_text(made.mask))
    with pytest.raises(AdapterError, match="does not name its base"):
        export(tmp_path / "bare.safetensors", "peft", tmp_path / "peft")
    with pytest.raises(AdapterError, match="does not say which base it was made on"):
        export(tmp_path / "bare.safetensors", "peft", tmp_path / "peft", str(made.base))
    alone = {name: tensor for name, tensor in tensors.items() if not name.endswith(".delta")}
    save_file(alone, tmp_path / "mask.safetensors", sizes_text(made.mask))
    with pytest.raises(AdapterError, match="and not by how much"):
        export(tmp_path / "mask.safetensors", "peft", tmp_path / "peft", str(made.base))


def test_the_command_says_what_it_wrote(move: Callable[..., Moved], tmp_path: Path) -> None:
    made = move("llama-tied", "columns")
    words = ["export", str(made.adapter), "--to", "peft", "--out", str(tmp_path / "peft"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["container"], facts["folder"]) == ("SHIRA", str(tmp_path / "peft"))
    assert facts["padding"] > 0
    assert "of the places hold a change of 0" in done.stderr
    assert "PeftModel.from_pretrained" in (tmp_path / "peft" / "README.md").read_text()
