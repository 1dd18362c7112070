"""A .gguf file as a model: converted once for what it holds, told apart by its bytes, refused by a light hand."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.backend import converted as module
from ctxtune.backend.converted import converted
from ctxtune.backend.folder import resolve_model
from ctxtune.backend.gguf import check_gguf
from ctxtune.errors import ModelError, StorageError

from .test_gguf import write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Conversions that write an empty model; returns what was converted."""
    done: list[Path] = []

    def convert(gguf: Path, out: Path, note: Mapping[str, Any]) -> None:
        done.append(gguf)
        out.mkdir()
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (out / name).write_text("{}")
        (out / "ctxtune.json").write_text(json.dumps(note))

    monkeypatch.setattr(module, "convert", convert)
    return done


def test_a_file_is_converted_once(tmp_path: Path, conversions: list[Path]) -> None:
    path = tmp_path / "Tiny.GGUF"
    write(path)
    said: list[str] = []
    folder = resolve_model(str(path), said.append)
    assert folder.is_relative_to(tmp_path / "home" / "converted")
    assert said == ["converting Tiny.GGUF to safetensors, once"]
    assert resolve_model(str(path), said.append) == folder
    path.rename(tmp_path / "moved.gguf")
    assert converted(tmp_path / "moved.gguf", said.append) == folder  # the same bytes in another place
    assert (len(conversions), len(said)) == (1, 1)
    assert json.loads((folder / "ctxtune.json").read_text())["model"] == "Tiny.GGUF"


def test_a_changed_file_is_another_model(tmp_path: Path, conversions: list[Path]) -> None:
    path = tmp_path / "tiny.gguf"
    write(path)
    first = resolve_model(str(path))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    assert resolve_model(str(path)) != first
    assert len(conversions) == 2


def test_the_hash_is_remembered(tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.gguf"
    write(path)
    folder = resolve_model(str(path))
    monkeypatch.setattr(module, "sha256_file", None)  # nothing can be hashed now
    assert resolve_model(str(path)) == folder
    (memory,) = (tmp_path / "home" / "converted").glob("*.json")
    memory.write_text("{")
    with pytest.raises(TypeError):
        resolve_model(str(path))


def test_no_room_is_said_first(tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "tiny.gguf")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match="1,000 are free"):
        resolve_model(str(tmp_path / "tiny.gguf"))
    assert conversions == []


LIES = {
    "block_count": (10**9, "llama.block_count is 1000000000, and the tensors say 1"),
    "embedding_length": (65, "embedding_length is 65, and the tensors say 64"),
    "feed_forward_length": (2**31, "feed_forward_length is 2147483648, and the tensors say 96"),
    "vocab_size": (2**31, "vocab_size is 2147483648, and the tensors say 32"),
    "attention.head_count": (0, "head_count is 0"),
}


@pytest.mark.parametrize(("key", "value", "said"), [(key, *rest) for key, rest in LIES.items()], ids=LIES)
def test_a_header_that_contradicts_its_tensors(key: str, value: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write(path)
    data = path.read_bytes()
    name = f"llama.{key}".encode()
    place = data.index(name) + len(name) + 4
    path.write_bytes(data[:place] + struct.pack("<I", value) + data[place + 4 :])
    with pytest.raises(ModelError, match=said):
        resolve_model(str(path))


def test_an_architecture_that_is_not_in_the_table(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write(path)
    path.write_bytes(path.read_bytes().replace(b"llama", b"rwkv7"))
    with pytest.raises(ModelError, match="GGUF architecture 'rwkv7' is not supported") as caught:
        check_gguf(path)
    assert "gpt2, llama" in (caught.value.hint or "")


def test_a_broken_file_is_refused_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write(path)
    os.truncate(path, 5000)
    code = (
        "import sys; from ctxtune.backend.folder import resolve_model; from ctxtune.errors import ModelError\n"
        "try: resolve_model(sys.argv[1])\n"
        "except ModelError: sys.exit(bool({'torch', 'transformers', 'gguf'} & set(sys.modules)))\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


@pytest.mark.filterwarnings("ignore")  # of the libraries that read GGUF
def test_a_run_on_a_gguf_file(tmp_path: Path) -> None:
    """From the file to an adapter that names it, and back."""
    from ctxtune.adapter.read import open_adapter
    from ctxtune.commands.adapt import adapt
    from ctxtune.commands.evaluate import evaluate

    from ..conftest import Listener, resolve_recipe, write_jsonl

    path = tmp_path / "tiny.gguf"
    write(path)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "ab" * i, "label": "cd"} for i in range(1, 9)])
    more = {"data.prompt": "{{ text }}", "data.choices": ["cd", "ef"], "data.delimiter": ""}
    listener = Listener()
    adapt(resolve_recipe(path, rows, tmp_path / "run", more), False, listener)
    assert "converting tiny.gguf to safetensors, once" in listener.notes
    opened = open_adapter(tmp_path / "run")
    assert opened.manifest is not None
    assert opened.manifest.base.name == str(path)
    result = evaluate(None, {"data.eval": str(rows)}, [], tmp_path / "run", False, lambda text: None)
    assert result["scores"]["acc"] >= 0
