"""The fingerprint follows the numbers and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ctxtune.backend import fingerprint as module
from ctxtune.backend.fingerprint import cached_fingerprint, fingerprint
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(3, "f2"), "empty": np.zeros((0, 2), "f4")}
CONFIG = {"model_type": "llama", "rms_norm_eps": 1e-5, "transformers_version": "5.0", "dtype": "float32", "x": None}
TOKENIZER = {"model": {"vocab": {"ü": 0}}, "truncation": None}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTXTUNE_HOME", str(tmp_path / "home"))


def make(folder: Path, tensors: Any = TENSORS, config: Any = CONFIG, tokenizer: Any = TOKENIZER) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_what_does_not_matter(tmp_path: Path) -> None:
    expected = fingerprint(make(tmp_path / "model"))
    assert expected.startswith("sha256:")
    assert len(expected) == 71
    config = {"_name_or_path": "elsewhere", "use_cache": False, **dict(reversed(CONFIG.items())), "dtype": "bfloat16"}
    other = make(tmp_path / "other", dict(reversed(TENSORS.items())), config, {**TOKENIZER, "truncation": {"max": 3}})
    (other / "config.json").write_text(json.dumps(config, indent=4))
    (other / "generation_config.json").write_text("{}")
    assert fingerprint(other) == expected


def test_shards_do_not_matter(tmp_path: Path) -> None:
    expected = fingerprint(make(tmp_path / "model"))
    folder = make(tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    save_file({"b": TENSORS["b"]}, folder / "one.safetensors")
    save_file({"a": TENSORS["a"], "empty": TENSORS["empty"]}, folder / "two.safetensors")
    table = {"a": "two.safetensors", "empty": "two.safetensors", "b": "one.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    assert fingerprint(folder) == expected
    save_file({"b": TENSORS["b"], "a": TENSORS["a"]}, folder / "one.safetensors")
    with pytest.raises(ModelError, match="'a' stands in two files"):
        fingerprint(folder)


def changed(name: str, array: Any) -> dict[str, Any]:
    return {**TENSORS, name: array}


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": changed("a", TENSORS["a"] + np.float32(1e-6) * np.eye(2, 3, dtype="f4"))},
        {"tensors": changed("a", TENSORS["a"].reshape(3, 2))},
        {"tensors": changed("a", TENSORS["a"].view("i4"))},
        {"tensors": changed("c", np.zeros(0, "f4"))},
        {"tensors": {("z" if name == "a" else name): array for name, array in TENSORS.items()}},
        {"config": {**CONFIG, "rms_norm_eps": 1e-6}},
        {"tokenizer": {"model": {"vocab": {"u": 0}}}},
    ],
)
def test_what_matters(change: dict[str, Any], tmp_path: Path) -> None:
    assert fingerprint(make(tmp_path / "model")) != fingerprint(make(tmp_path / "other", **change))


def test_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "model")
    assert cached_fingerprint(folder) is None
    expected = fingerprint(folder)
    assert cached_fingerprint(folder) == expected
    with monkeypatch.context() as patch:
        patch.setattr(module, "_compute", lambda folder: "computed")
        assert fingerprint(folder) == expected
        os.utime(folder / "config.json", ns=(1, 1))
        assert cached_fingerprint(folder) is None
        assert fingerprint(folder) == "computed"


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"fingerprint": 3}'])
def test_a_broken_note_is_written_again(note: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    expected = fingerprint(folder)
    (path,) = (tmp_path / "home" / "fingerprints").iterdir()
    path.write_text(note)
    assert fingerprint(folder) == expected == cached_fingerprint(folder)


def test_a_cut_tensor_file(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1])
    with pytest.raises(ModelError, match="the header promises"):
        fingerprint(folder)


def test_no_torch(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    code = (
        "import sys; from pathlib import Path; from ctxtune.backend.fingerprint import fingerprint; "
        "print(fingerprint(Path(sys.argv[1]))); sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint(folder)
