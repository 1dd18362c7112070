"""Model and adapter folders, each broken in one way: every command that reads them says which file is wrong, and exits 3."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def tensors_file(header: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    """A safetensors file; `length` lies about the size of the header."""
    return struct.pack("<Q", len(header) if length is None else length) + header + body


LIES = {
    "zero": b"",
    "short": b"\x00\x00\x00",
    "binary": bytes(range(256)) * 4,
    "huge": tensors_file(b"{}", 1 << 62),
    "beyond": tensors_file(b"{}", 1000),
    "word": tensors_file(b"hello"),
    "list": tensors_file(b"[]"),
    "none": tensors_file(b"{}"),
    "outside": tensors_file(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'),
    "backward": tensors_file(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}', body=b"\0" * 16),
    "negative": tensors_file(b'{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}', body=b"\0" * 16),
    "vast": tensors_file(
        b'{"a": {"dtype": "F32", "shape": [99999999999999], "data_offsets": [0, 16]}}', body=b"\0" * 16
    ),
    "type": tensors_file(b'{"a": {"dtype": "Q99", "shape": [4], "data_offsets": [0, 16]}}', body=b"\0" * 16),
    "strange": tensors_file(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', body=b"\0" * 16),
}


BROKEN_MODELS = (
    "no-config", "no-weights", "no-tokenizer", "config-empty", "config-binary", "config-list", "config-family",
    "config-familyless", "config-layers", "config-width", "config-word", "config-zero", "tokenizer-empty",
    "tokenizer-object", "config-folder", "weights-folder", "pickle", "index-list", "index-out", "index-missing",
)  # fmt: skip
BROKEN_ADAPTERS = (
    "cut", "no-weights", "no-config", "config-empty", "config-list", "config-type", "weights-folder", "manifest",
    "no-manifest", "version", "nan",
)  # fmt: skip


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def broken_models(model: Path, folder: Path) -> None:
    """Copies of a good model folder, each broken in one way."""
    (folder / "m-empty").mkdir()
    for name in BROKEN_MODELS:
        shutil.copytree(model, folder / f"m-{name}")
    for name, data in LIES.items():
        shutil.copytree(model, folder / f"m-weights-{name}")
        (folder / f"m-weights-{name}" / "model.safetensors").write_bytes(data)
    shutil.copytree(model, folder / "m-weights-cut")
    with (folder / "m-weights-cut" / "model.safetensors").open("r+b") as file:
        file.truncate(20_000)
    (folder / "m-no-config" / "config.json").unlink()
    (folder / "m-no-weights" / "model.safetensors").unlink()
    (folder / "m-no-tokenizer" / "tokenizer.json").unlink()
    (folder / "m-config-empty" / "config.json").write_bytes(b"")
    (folder / "m-config-binary" / "config.json").write_bytes(bytes(range(256)))
    (folder / "m-config-list" / "config.json").write_bytes(b"[]")
    change_json(folder / "m-config-family" / "config.json", model_type="t5")
    change_json(folder / "m-config-familyless" / "config.json", model_type=None)
    change_json(folder / "m-config-layers" / "config.json", num_hidden_layers=7)
    change_json(folder / "m-config-width" / "config.json", hidden_size=64)
    change_json(folder / "m-config-word" / "config.json", hidden_size="wide")
    change_json(folder / "m-config-zero" / "config.json", num_attention_heads=0)
    (folder / "m-tokenizer-empty" / "tokenizer.json").write_bytes(b"")
    (folder / "m-tokenizer-object" / "tokenizer.json").write_bytes(b"{}")
    for name, file in (("config-folder", "config.json"), ("weights-folder", "model.safetensors")):
        (folder / f"m-{name}" / file).unlink()
        (folder / f"m-{name}" / file).mkdir()
    weights = "model.safetensors"
    (folder / "m-pickle" / weights).rename(folder / "m-pickle" / "pytorch_model.bin")
    tables = {"list": [], "out": {"a": "../m-empty/x.safetensors"}, "missing": {"a": "model-1.safetensors"}}
    for name, table in tables.items():
        (folder / f"m-index-{name}" / weights).unlink()
        (folder / f"m-index-{name}" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def broken_adapters(adapter: Path, folder: Path) -> None:
    """Copies of a good adapter, each broken in one way."""
    weights, config = "adapter_model.safetensors", "adapter_config.json"
    (folder / "a-empty").mkdir()
    for name, data in LIES.items():
        shutil.copytree(adapter, folder / f"a-{name}")
        (folder / f"a-{name}" / weights).write_bytes(data)
    for name in BROKEN_ADAPTERS:
        shutil.copytree(adapter, folder / f"a-{name}")
    with (folder / "a-cut" / weights).open("r+b") as file:
        file.truncate(5000)
    (folder / "a-no-weights" / weights).unlink()
    (folder / "a-no-config" / config).unlink()
    (folder / "a-config-empty" / config).write_bytes(b"")
    (folder / "a-config-list" / config).write_bytes(b"[]")
    change_json(folder / "a-config-type" / config, peft_type="NOPE")
    (folder / "a-weights-folder" / weights).unlink()
    (folder / "a-weights-folder" / weights).mkdir()
    change_manifest(folder / "a-manifest" / weights, "{")
    change_manifest(folder / "a-no-manifest" / weights, None)
    change_manifest(folder / "a-version" / weights, '{"format": 99}')
    data = bytearray((folder / "a-nan" / weights).read_bytes())
    data[-4:] = struct.pack("<f", float("nan"))
    (folder / "a-nan" / weights).write_bytes(data)


def change_manifest(path: Path, text: str | None) -> None:
    """Put another text in the place of the manifest in a safetensors header."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = next(key for key in header["__metadata__"] if "ctxtune" in key)
    header["__metadata__"][name] = text
    if text is None:
        del header["__metadata__"][name]
    path.write_bytes(tensors_file(json.dumps(header).encode(), body=data[8 + length :]))


MODELS = ["empty", *BROKEN_MODELS, *(f"weights-{name}" for name in LIES), "weights-cut"]
ADAPTERS = ["empty", *LIES, *BROKEN_ADAPTERS]
# What a command has no need to look at does not stop it.
FINE = {
    *(f"model show m-{name}" for name in BROKEN_MODELS if name.startswith(("config-f", "config-l", "config-w", "tok"))),
    "model show m-config-zero", "model show m-weights-none", "model show m-weights-strange",
    *(f"adapter show a-{name}" for name in ("strange", "no-config", "config-type", "no-manifest", "nan")),
    *(f"{line} a-{name}" for name in ("no-config", "no-manifest") for line in ("write x --adapter", "adapter verify")),
    *(f"adapter {verb} --out new a-{name}" for name in ("no-config", "no-manifest") for verb in ("merge", "export")),
    *(f"model show m-{name}" for name in ("no-weights", "no-tokenizer", "weights-folder", "pickle")),
}  # fmt: skip
FINE -= {"model show m-config-list", "model show m-config-folder"}


def lines_about(names: list[str], *beginnings: str) -> list[str]:
    return [f"{beginning}{name}" for beginning in beginnings for name in names]


BROKEN = [
    *lines_about(MODELS, "write x --model m-", "adapt --model m-", "adapt --dry-run --model m-", "model show m-"),
    *lines_about(
        ADAPTERS, "write x --adapter a-", "adapter show a-", "adapter verify a-", "adapter merge --out new a-",
        "adapter export --out new a-",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def hospital(model_folders: dict[str, Path], adapted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where all the broken folders lie."""
    folder = tmp_path_factory.mktemp("hospital")
    broken_models(model_folders["llama-tied"], folder)
    broken_adapters(adapted / "adapter", folder)
    return folder


@pytest.fixture
def inside(hospital: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand there; what a command leaves under `new` goes away afterwards."""
    monkeypatch.chdir(hospital)
    yield hospital
    shutil.rmtree(hospital / "new", ignore_errors=True)


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_folder_is_named(line: str, typed: Callable[[str], Any], inside: Path) -> None:
    answer = typed(line)
    if line in FINE:
        assert answer.code == 0, answer.err
    else:
        assert answer.code == 3, answer.err
        (replace(answer, out="") if line.startswith("adapter verify") else answer).complaint()
        assert not (inside / "new").exists() or not list((inside / "new").glob("[!.]*"))
