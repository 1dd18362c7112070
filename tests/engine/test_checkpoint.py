"""A run's state: the same bits come back, or an error; a file is whole or not there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from ctxtune.engine import checkpoint
from ctxtune.engine.checkpoint import read_checkpoint, read_params, read_state, write_checkpoint, write_params
from ctxtune.errors import CtxtuneError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

STATE = {"loop": {"step": 3, "best_loss": 0.1 + 0.2}, "rate": {"value": 3e-4}}


def make(seed: int = 0) -> tuple[dict[str, nn.Parameter], torch.optim.AdamW]:
    generator = torch.Generator().manual_seed(seed)
    params = {
        "a.weight": nn.Parameter(torch.randn(3, 4, generator=generator)),
        "a.bias": nn.Parameter(torch.randn(4, generator=generator)),
        "scalar": nn.Parameter(torch.randn((), generator=generator)),
    }
    return params, torch.optim.AdamW(params.values(), lr=1e-2, fused=True)


def step(params: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, times: int = 1) -> None:
    for _ in range(times):
        for param in params.values():
            param.grad = torch.randn(param.shape)  # from torch's own random state
        optimizer.step()


def bits(params: dict[str, nn.Parameter]) -> dict[str, bytes]:
    return {name: param.detach().contiguous().numpy().tobytes() for name, param in params.items()}


def test_going_on_is_the_same_as_never_stopping(tmp_path: Path) -> None:
    torch.manual_seed(5)
    straight, optimizer = make()
    step(straight, optimizer, 3)
    write_checkpoint(tmp_path / "c", straight, optimizer, STATE)
    step(straight, optimizer, 4)
    torch.manual_seed(99)
    again, other = make(1)
    assert read_checkpoint(tmp_path / "c", again, other) == STATE
    step(again, other, 4)
    assert bits(again) == bits(straight)


def test_before_the_first_step_there_are_no_moments(tmp_path: Path) -> None:
    params, optimizer = make()
    write_checkpoint(tmp_path / "c", params, optimizer, {})
    again, other = make(1)
    read_checkpoint(tmp_path / "c", again, other)
    assert bits(again) == bits(params)
    assert not other.state


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    params, _ = make()
    with torch.no_grad():
        params["a.bias"][:3] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    write_params(tmp_path / "b", params, {"loss": 1.0})
    again, _ = make(1)
    assert read_params(tmp_path / "b", again) == {"loss": 1.0}
    assert bits(again) == bits(params)


def test_the_parameters_stay_the_same_objects(tmp_path: Path) -> None:
    params, optimizer = make()
    write_checkpoint(tmp_path / "c", params, optimizer, STATE)
    before = {name: param.data_ptr() for name, param in params.items()}
    read_checkpoint(tmp_path / "c", params, optimizer)
    assert {name: param.data_ptr() for name, param in params.items()} == before


def test_the_state_alone(tmp_path: Path) -> None:
    params, optimizer = make()
    assert read_state(tmp_path / "c") is None
    write_checkpoint(tmp_path / "c", params, optimizer, STATE)
    assert read_state(tmp_path / "c") == STATE


def test_another_choice_of_parameters(tmp_path: Path) -> None:
    params, optimizer = make()
    write_checkpoint(tmp_path / "c", params, optimizer, STATE)
    fewer = {name: param for name, param in params.items() if name != "scalar"}
    with pytest.raises(CtxtuneError, match="another choice of layers") as caught:
        read_checkpoint(tmp_path / "c", fewer, torch.optim.AdamW(fewer.values()))
    assert f"remove {tmp_path / 'c'}," in str(caught.value.hint)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[9] ^= 255
    path.write_bytes(bytes(data))


def _foreign(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)


BREAK: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "its header broken": _flip,
    "of another program": _foreign,
    "text": lambda path: path.write_text("hello", encoding="utf-8"),
}


@pytest.mark.parametrize("damage", BREAK)
def test_a_broken_file_is_an_error(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "c"
    params, optimizer = make()
    write_checkpoint(path, params, optimizer, STATE)
    BREAK[damage](path)
    before = bits(params)
    reads: list[Callable[[], object]] = [
        lambda: read_checkpoint(path, params, optimizer),
        lambda: read_state(path),
        lambda: read_params(path, params),
    ]
    for read in reads:
        with pytest.raises(CtxtuneError, match="cannot be read") as caught:
            read()
        assert f"choose another --out, or remove {path}" in str(caught.value.hint)
    with pytest.raises(CtxtuneError, match="cannot be read") as caught:
        read_params(path, params, tmp_path / "last")
    assert f"remove {tmp_path / 'last'}," in str(caught.value.hint)
    assert bits(params) == before


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def safetensors_no_space(*_: object, **__: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(("place", "name", "fault"), [
    (os, "fsync", no_space), (Path, "replace", no_space), (checkpoint, "save_file", safetensors_no_space),
])  # fmt: skip
def test_a_full_disk_leaves_the_earlier_checkpoint(
    place: object, name: str, fault: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"
    params, optimizer = make()
    write_checkpoint(path, params, optimizer, STATE)
    before = path.read_bytes()
    step(params, optimizer)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, fault)
        with pytest.raises(StorageError, match="no room") as caught:
            write_checkpoint(path, params, optimizer, STATE)
    assert "bytes" in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["c"]


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    params, optimizer = make()
    with pytest.raises(StorageError):
        write_checkpoint(tmp_path / "no such folder" / "c", params, optimizer, STATE)


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    params, optimizer = make()
    before = os.umask(0)
    try:
        write_checkpoint(tmp_path / "c", params, optimizer, STATE)
        write_params(tmp_path / "b", params, {})
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "cb"} == {0o600}
