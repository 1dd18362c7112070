"""A model is found by folder or name, and everything it lacks is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ctxtune.backend.folder import check_folder, resolve_model, weight_files
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "smollm2-135m-instruct-q4"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTXTUNE_HOME", str(tmp_path / "home"))


def make(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


WHOLE = ("config.json", "tokenizer.json", "model.safetensors")


def test_a_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", *WHOLE)
    assert resolve_model(str(folder)) == folder
    assert weight_files(folder) == [folder / "model.safetensors"]


def test_a_folder_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "home" / "models" / NAME, *WHOLE)
    assert resolve_model(NAME) == tmp_path / "home" / "models" / NAME
    make(tmp_path / NAME, *WHOLE)
    assert resolve_model(NAME) == tmp_path / NAME


def test_a_name_that_is_not_here_yet() -> None:
    with pytest.raises(ModelError, match="not on this machine yet") as caught:
        resolve_model(NAME)
    assert caught.value.hint == f"ctxtune model pull {NAME}"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "no model is named", "ctxtune model list"),
        ("a\0b", "no model is named", "ctxtune model list"),
        ("smollm2-135m-instructor", "neither a folder nor a known name", NAME),
        ("someone/some-model", "nor on this machine yet", "ctxtune model pull someone/some-model"),
        ("./missing", "neither a folder", "ctxtune model list"),
        ("x" * 5000, "cannot be read|neither", ""),
        ("model.gguf", "is not there", ".gguf file that exists"),
        ("/dev/null", "is a file", "folder with config.json"),
    ],
)
def test_what_is_no_model(text: str, message: str, hint: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        resolve_model(text)
    assert hint in (caught.value.hint or "")
    assert len(str(caught.value)) < 400


def test_everything_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks config.json, tokenizer.json, model.safetensors \(or model"):
        check_folder(make(tmp_path / "empty"))
    with pytest.raises(ModelError, match=r"lacks tokenizer\.json$"):
        check_folder(make(tmp_path / "a", "config.json", "model.safetensors"))
    with pytest.raises(ModelError, match="can run code when it is read"):
        check_folder(make(tmp_path / "b", "config.json", "tokenizer.json", "pytorch_model.bin"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ModelError):
        resolve_model(str(tmp_path / "loop"))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": 1}}', "has no weight_map"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "not a safetensors file beside it"),
        ('{"weight_map": {"a": "model.bin"}}', "not a safetensors file beside it"),
        ('{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}', r"lacks two\.safetensors"),
    ],
)
def test_a_broken_index(index: str, message: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "config.json", "tokenizer.json", "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=message):
        resolve_model(str(folder))


def test_shards(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "config.json", "tokenizer.json", "one.safetensors", "two.safetensors")
    index = {"weight_map": {"a": "two.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(folder) == [folder / "one.safetensors", folder / "two.safetensors"]
