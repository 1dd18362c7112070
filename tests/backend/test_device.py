"""Which device, and how much memory."""

from __future__ import annotations

import builtins
import io
import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ctxtune.backend.device import available_memory, choose_device
from ctxtune.errors import ModelError


def test_cpu_when_asked_for() -> None:
    device = choose_device("cpu")
    assert (device.name, device.dtype) == ("cpu", torch.float32)
    assert "asked for" in device.reason


def test_auto_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = choose_device("auto")
    assert (device.name, device.dtype) == ("cpu", torch.float32)
    assert "no CUDA GPU" in device.reason


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="no CUDA GPU") as caught:
        choose_device("cuda")
    assert "cpu" in str(caught.value.hint)


GPUS = [
    (7, "auto", torch.float32, "float32 (it has no bfloat16 of its own)", False),
    (8, "auto", torch.bfloat16, "bfloat16 (it has bfloat16)", False),
    (12, "auto", torch.bfloat16, "bfloat16 (it has bfloat16)", False),
    (8, "float32", torch.float32, "float32 (asked for)", False),
    (7, "float16", torch.float16, "float16 (asked for)", False),
    (7, "bfloat16", torch.bfloat16, "bfloat16 (asked for, emulated)", True),
]


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
@pytest.mark.parametrize(("generation", "dtype", "kind", "why", "slow"), GPUS)
def test_what_a_gpu_computes_in(
    wanted: str,
    generation: int,
    dtype: str,
    kind: torch.dtype,
    why: str,
    slow: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (generation, 0))
    matmul = SimpleNamespace(allow_tf32=True)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    device = choose_device(wanted, dtype)
    assert (device.name, device.dtype, device.reason) == ("cuda", kind, f"A GPU, {why}")
    assert (device.warning is not None) == slow
    assert matmul.allow_tf32 is False


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("vendor_id : X\nflags : fpu avx2 avx512f\n", "has no bfloat16"),
        ("vendor_id : X\nflags : fpu avx512_bf16 x\n", "has bfloat16"),
        ("flags : fpu amx_bf16\n", "has bfloat16"),
        ("Features : fp asimd bf16\n", "has bfloat16"),
        ("", "has no bfloat16"),
        (None, "has no bfloat16"),
    ],
)
def test_why_a_processor_computes_in_float32(text: str | None, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system_file(monkeypatch, "/proc/cpuinfo", text)
    device = choose_device("cpu")
    assert device.dtype is torch.float32
    assert f"float32 (it {why}" in device.reason


@pytest.mark.parametrize(
    ("flags", "dtype", "slow"),
    [
        ("fpu avx512_bf16", "bfloat16", False), ("amx_bf16", "bfloat16", False), ("avx512f", "bfloat16", True),
        ("avx512_bf16", "float16", True), ("avx512_fp16", "float16", False), ("avx512f", "float32", False),
    ],
)  # fmt: skip
def test_what_is_asked_of_a_processor(flags: str, dtype: str, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not have is done, and said to be slow."""
    system_file(monkeypatch, "/proc/cpuinfo", f"flags : {flags}\n")
    device = choose_device("cpu", dtype)
    assert device.type_name == dtype
    assert f"{dtype} (asked for" in device.reason
    assert (device.warning is not None) == slow
    if slow:
        assert "7 times slower" in str(device.warning)


def meminfo(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    system_file(monkeypatch, "/proc/meminfo", text)


def system_file(monkeypatch: pytest.MonkeyPatch, place: str, text: str | None) -> None:
    real = builtins.open

    def fake(path: Any, *rest: Any, **options: Any) -> Any:
        if path != place:
            return real(path, *rest, **options)
        if text is None:
            raise FileNotFoundError(path)
        return io.StringIO(text)

    monkeypatch.setattr(builtins, "open", fake)


def test_memory_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo(monkeypatch, "MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:     2000 kB\nBuffers: 1 kB\n")
    assert available_memory() == 2000 * 1024


@pytest.mark.parametrize("text", [None, "", "MemTotal: 9000 kB\n"])
def test_memory_on_systems_that_do_not_say(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo(monkeypatch, text)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available_memory() == 100 * 4096 // 2
    monkeypatch.setattr(os, "sysconf_names", {})
    assert available_memory() == 4 << 30
