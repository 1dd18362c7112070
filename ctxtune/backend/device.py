"""Which device and number type a run uses, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from ctxtune.errors import ModelError


@dataclass(frozen=True)
class Device:
    """Where the model lives, in which type, and the reason in words."""

    name: str
    dtype: torch.dtype
    reason: str


def choose_device(wanted: str) -> Device:
    """float32 wherever it is run: bfloat16 is several times slower on processors without it and rounds merges away.

    Raises:
        ModelError: a GPU was asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError("device cuda was asked for, but torch finds no CUDA GPU", "leave --device out, or use cpu")
    if wanted == "cpu" or not torch.cuda.is_available():
        why = "asked for" if wanted == "cpu" else "no CUDA GPU"
        return Device(
            "cpu", torch.float32, f"cpu ({why}), {_type_reason(_cpu_bfloat16())}, {torch.get_num_threads()} threads"
        )
    # TF32 keeps 10 bits of the mantissa; laws compare to 1e-4.
    torch.backends.cuda.matmul.allow_tf32 = False
    native = torch.cuda.get_device_capability()[0] >= 8
    return Device("cuda", torch.float32, f"{torch.cuda.get_device_name()}, {_type_reason(native)}")


def _type_reason(native: bool) -> str:
    """Why float32, in words."""
    has = "it has bfloat16, which is too coarse for exact comparisons" if native else "it has no bfloat16 of its own"
    return f"float32 ({has})"


def _cpu_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself: AVX512-BF16 or AMX on x86, bf16 on ARM; elsewhere it is not known."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            line = next((line for line in file if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(line.split())


def available_memory() -> int:
    """Bytes of memory that can be used without swapping; on systems that do not say, half of what is fitted."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 << 30
