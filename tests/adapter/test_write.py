"""What ctxtune writes, plain PEFT loads with equal logits; a folder is complete or not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open

from ctxtune.adapter import write
from ctxtune.adapter.container import layer_tensors
from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.write import write_adapter
from ctxtune.errors import StorageError

from .conftest import KINDS, build, logits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Made


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("part", ["last", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_it(kind: str, part: str, dtype: torch.dtype, make: Callable[..., Made]) -> None:
    from peft import PeftModel

    made = make(kind, part, dtype)
    model = PeftModel.from_pretrained(build(kind, dtype=dtype), made.adapter).eval()
    assert torch.allclose(logits(model), made.logits, rtol=0, atol=1e-10 if dtype is torch.float64 else 2e-4)
    assert (made.logits - made.base_logits).abs().max() > 0.01
    config = json.loads((made.adapter / "adapter_config.json").read_text())
    assert config["task_type"] == (None if kind.startswith("bert") else "CAUSAL_LM")


def test_tied_modules_are_stored_under_each_name(make: Callable[..., Made]) -> None:
    """PEFT copies modules: a tied head that is left out would keep the base's values, without a word."""
    made = make("llama-tied", "all")
    names = set(open_adapter(made.adapter).header.tensors)
    assert {f"base_model.model.{m}.ln_tuning_layers.weight" for m in ("lm_head", "model.embed_tokens")} <= names


def test_the_file_alone_tells_everything(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("gpt2-tied")
    lone = tmp_path / "lone.safetensors"
    (made.adapter / "adapter_model.safetensors").rename(lone)
    adapter = open_adapter(lone)
    assert adapter.manifest == made.manifest
    assert (adapter.kind, adapter.container, adapter.config) == ("freeze", "LN_TUNING", None)
    with safe_open(str(lone), framework="pt") as file:  # a second reader of the same bytes
        assert file.metadata()["format"] == "pt"
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == {  # noqa: SIM118
            name: info.shape for name, info in adapter.header.tensors.items()
        }


def test_a_run_stands_for_its_adapter(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("gpt2-tied")
    (tmp_path / "run").mkdir()
    made.adapter.rename(tmp_path / "run" / "adapter")
    assert open_adapter(tmp_path / "run").path == tmp_path / "run" / "adapter" / "adapter_model.safetensors"


@pytest.mark.parametrize("dtype", list(write.DTYPES))
def test_every_type_comes_back(dtype: torch.dtype, make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    value = (torch.arange(7) % 2).to(dtype)
    transposed = torch.arange(6).reshape(2, 3).to(torch.float32).T
    tensors = layer_tensors({"a": {"weight": value}, "b": {"weight": transposed}})
    write_adapter(tmp_path / "new", tensors, made.manifest, None, "card")
    with safe_open(str(tmp_path / "new" / "adapter_model.safetensors"), framework="pt") as file:
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
            assert file.get_tensor(name).dtype is tensor.dtype


def test_an_adapter_is_replaced_and_nothing_else(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    tensors = layer_tensors({"lm_head": {"weight": torch.ones(2, 2)}})
    write_adapter(made.adapter, tensors, made.manifest, None, "card")
    assert sorted(path.name for path in made.adapter.iterdir()) == ["README.md", "adapter_model.safetensors"]
    (made.adapter / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds 'notes\.txt', which is no part of an adapter"):
        write_adapter(made.adapter, tensors, made.manifest, None, "card")
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(StorageError, match="is not a folder"):
        write_adapter(file, tensors, made.manifest, None, "card")
    assert file.read_text() == "mine"


def test_a_failed_write_leaves_the_old_adapter(make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("llama-tied")
    before = {path.name: path.read_bytes() for path in made.adapter.iterdir()}
    beside = sorted(path.name for path in made.adapter.parent.iterdir())

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    tensors = layer_tensors({"lm_head": {"weight": torch.ones(2, 2)}})
    with pytest.raises(StorageError, match=r"no room on the disk for .*adapter_model.safetensors \([\d,]+ bytes\)"):
        write_adapter(made.adapter, tensors, made.manifest, None, "card")
    assert {path.name: path.read_bytes() for path in made.adapter.iterdir()} == before
    assert sorted(path.name for path in made.adapter.parent.iterdir()) == beside


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from ctxtune.adapter.container import layer_tensors
from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.write import write_adapter

place, fatal, count = Path(sys.argv[1]), int(sys.argv[2]), 0
sync = os.fsync

def die(handle):
    global count
    count += 1
    if count == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(handle)

os.fsync = die
manifest = open_adapter(place).manifest
write_adapter(place, layer_tensors({"lm_head": {"weight": torch.ones(2, 2)}}), manifest, None, "card")
"""


def test_a_killed_write_leaves_a_whole_adapter(make: Callable[..., Made]) -> None:
    made = make("llama-tied")
    old = set(open_adapter(made.adapter).header.tensors)
    for fatal in (1, 2, 3):
        command = [sys.executable, "-c", KILLED, str(made.adapter), str(fatal)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert set(open_adapter(made.adapter).header.tensors) == old
        left = list(made.adapter.parent.glob(".*.tmp"))
        assert len(left) == 1  # the earlier one was swept away
    write_adapter(made.adapter, layer_tensors({"lm_head": {"weight": torch.ones(2, 2)}}), made.manifest, None, "card")
    assert not list(made.adapter.parent.glob(".*.tmp"))
    assert len(open_adapter(made.adapter).header.tensors) == 1
