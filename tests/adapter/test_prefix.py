"""An adapter that holds demonstrations: looked at, checked, exported; and every lie it could tell of itself."""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.adapter.card import model_card
from ctxtune.adapter.change import changes
from ctxtune.adapter.manifest import BaseModel, Change, Manifest, Shown
from ctxtune.adapter.prefix import ROWS, Layout, layout_of, prefix_config, shown
from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.verify import verify
from ctxtune.adapter.write import write_adapter
from ctxtune.backend.fingerprint import fingerprint
from ctxtune.cli.adapter import _rows
from ctxtune.commands.adapter import merge
from ctxtune.commands.export import export
from ctxtune.errors import AdapterError

from .conftest import build, save

if TYPE_CHECKING:
    from pathlib import Path

LAYOUT = Layout(tokens=5, layers=2, heads=2, dim=8)
SHOWN = Shown(
    instruction="So:\n",
    texts=["a ` fine film = positive\n", "dull = negative\n"],
    where=["train.jsonl line 1", "train.jsonl line 4"],
    tokens=[1, 2, 3, 4, 5],
    alone=True,
    heads=2,
    layers=2,
    calibrate="batch",
    bias={"negative": 0.25, "positive": -0.25},
)
MANIFEST = Manifest(
    method="fewshot",
    settings={"shots": 2},
    recipe="ctxtune: 1\nmethod: {name: fewshot}\n",
    base=BaseModel("tiny", "sha256:abc"),
    seed=0,
    trainable=0,
    shown=SHOWN,
    scores=Change({}, {"acc": 0.75}),
    created="2025-01-02T03:04:05Z",
)


def write(folder: Path, manifest: Manifest = MANIFEST, rows: torch.Tensor | None = None) -> Path:
    values = torch.randn(5, 64) if rows is None else rows
    write_adapter(folder, {ROWS: values}, manifest, prefix_config(LAYOUT, "tiny"), model_card(manifest))
    return folder


def told(**changes_: Any) -> Manifest:
    return dataclasses.replace(MANIFEST, shown=dataclasses.replace(SHOWN, **changes_))


def test_it_comes_back(tmp_path: Path) -> None:
    adapter = open_adapter(write(tmp_path / "a"))
    assert (adapter.kind, adapter.container, adapter.manifest) == ("fewshot", "PREFIX_TUNING", MANIFEST)
    assert shown(adapter) == SHOWN
    assert layout_of(adapter) == LAYOUT
    assert changes(adapter) == []
    assert all(check.ok for check in verify(adapter))
    assert verify(adapter)[1].detail == "format 1, fewshot, 2 demonstrations, 5 tokens"
    (tmp_path / "a" / "adapter_config.json").unlink()
    assert layout_of(open_adapter(tmp_path / "a")) == LAYOUT
    older = {key: value for key, value in MANIFEST.as_dict().items() if key != "shown"}
    assert Manifest.from_json(older) == dataclasses.replace(MANIFEST, shown=None)


def test_the_card(tmp_path: Path) -> None:
    card = model_card(MANIFEST)
    assert "```\nSo:\n```" in card
    assert "````" not in card
    assert "a ` fine film = positive" in card
    assert 'tokenizer("QUESTION", add_special_tokens=False' in card
    assert 'log p of the choices: "negative" +0.2500, "positive" -0.2500' in card
    assert "input_ids[:, 5:]" in model_card(told(alone=False))
    python = card.partition("```python\n")[2].partition("```")[0]
    compile(python, "card", "exec")


def test_show(tmp_path: Path) -> None:
    rows = dict(_rows({"kind": "fewshot", "container": "PREFIX_TUNING", "base": "tiny", "tensors": {}, "numbers": 1,
                       "bytes": 2, "manifest": MANIFEST.as_dict()}))  # fmt: skip
    assert rows["demonstrations"] == "2"
    assert rows["tokens held"] == "5"
    assert rows["batch calibration, nats"] == "negative +0.2500, positive -0.2500"


def test_the_demonstrations_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ctxtune.cli.adapter import show

    write(tmp_path / "a")
    show(tmp_path / "a")
    said = capsys.readouterr().out
    for text in ("So:", "a ` fine film = positive", "train.jsonl line 1", "dull = negative", "train.jsonl line 4"):
        assert text in said


@pytest.mark.filterwarnings("ignore")  # peft's own
def test_the_file_alone_is_exported(tmp_path: Path) -> None:
    from peft import PeftModel

    rows = torch.randn(5, 64)
    lone = (write(tmp_path / "a", rows=rows) / "adapter_model.safetensors").rename(tmp_path / "lone.safetensors")
    export(lone, "peft", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config == prefix_config(LAYOUT, "tiny")
    model = PeftModel.from_pretrained(build("llama-tied"), tmp_path / "out")
    (keys, values, _), *_ = model.get_prompt(1)
    assert torch.equal(keys[0], rows.view(5, 4, 2, 8)[:, 0].transpose(0, 1))
    assert torch.equal(values[0], rows.view(5, 4, 2, 8)[:, 1].transpose(0, 1))


def test_merging_is_refused(tmp_path: Path, home: Path) -> None:
    base = save(build("llama-tied"), tmp_path / "base")
    write(tmp_path / "a", dataclasses.replace(MANIFEST, base=BaseModel(str(base), fingerprint(base))))
    with pytest.raises(AdapterError, match="no number of the base changes: nothing can be merged"):
        merge(tmp_path / "a", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("manifest", "rows", "said"),
    [
        (told(tokens=[1, 2, 3]), None, "has 5 rows, the manifest lists 3 tokens"),
        (told(where=[]), None, "2 demonstrations come from 0 places"),
        (told(layers=3), None, "has 64 columns, which are not 2 x 3 x 2 x d"),
        (told(heads=0), None, "has 64 columns, which are not 2 x 2 x 0 x d"),
        (told(layers=-2, heads=-2), None, "has 64 columns, which are not"),
        (told(heads=4), None, "adapter_config.json says num_attention_heads 2, the file 4"),
        (told(tokens=[]), torch.zeros(0, 64), "has shape \\[0, 64\\], a prefix has a row a token"),
        (MANIFEST, torch.zeros(5, 64, 1), "has shape \\[5, 64, 1\\]"),
        (MANIFEST, torch.zeros(5, 64, dtype=torch.int64), "is of type I64, keys and values are floats"),
        (dataclasses.replace(MANIFEST, shown=None), None, "does not say which tokens it stands for"),
    ],
)
def test_lies(manifest: Manifest, rows: torch.Tensor | None, said: str, tmp_path: Path) -> None:
    adapter = open_adapter(write(tmp_path / "a", manifest, rows))
    with pytest.raises(AdapterError, match=said):
        layout_of(adapter)
    assert not all(check.ok for check in verify(adapter))
    with pytest.raises(AdapterError, match="is not exported"):
        export(tmp_path / "a", "peft", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_number_that_is_none(tmp_path: Path) -> None:
    rows = torch.randn(5, 64)
    rows[2, 3] = torch.nan
    checks = verify(open_adapter(write(tmp_path / "a", rows=rows)))
    assert [check.name for check in checks if not check.ok] == ["numbers"]


def test_another_tensor_beside_it(tmp_path: Path) -> None:
    tensors = {ROWS: torch.randn(5, 64), "base_model.classifier.weight": torch.zeros(2)}
    write_adapter(tmp_path / "a", tensors, MANIFEST, prefix_config(LAYOUT, "tiny"), "card")
    with pytest.raises(AdapterError, match="this file holds others"):
        layout_of(open_adapter(tmp_path / "a"))


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    """JSON can spell it, and nothing can print it."""
    path = write(tmp_path / "a") / "adapter_model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"]["ctxtune"] = header["__metadata__"]["ctxtune"].replace("dull", "d\\ud800")
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    with pytest.raises(AdapterError, match="not valid JSON"):
        open_adapter(path)


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Shown)])
@pytest.mark.parametrize("value", [None, 1.5, {"a": "b"}, [None], "missing"], ids=str)
def test_every_field_is_checked(key: str, value: object) -> None:
    fields = MANIFEST.as_dict()
    if value == "missing":
        del fields["shown"][key]
    else:
        fields["shown"][key] = value
    if key in ("begun", "among") and value == "missing":  # older files have none
        assert Manifest.from_json(fields).shown == SHOWN
        return
    with pytest.raises(AdapterError, match=key):
        Manifest.from_json(fields)


def test_a_prefix_that_peft_trained(tmp_path: Path) -> None:
    """One that was trained stands for no tokens: ctxtune cannot say what goes on from it."""
    from safetensors.torch import save_file

    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file({ROWS: torch.randn(5, 64)}, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(prefix_config(LAYOUT, "tiny")))
    adapter = open_adapter(folder)
    assert adapter.kind == "prefix_tuning"
    with pytest.raises(AdapterError, match="does not say which tokens it stands for"):
        changes(adapter)
