"""Which device and number type a run uses, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ctxtune.errors import ModelError
from ctxtune.recipe.plural import counted

if TYPE_CHECKING:
    from collections.abc import Collection


TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What processors call their own products of 16 bits: AVX512-BF16 or AMX on x86, bf16 on ARM; the same of float16.
FLAGS = {"bfloat16": {"avx512_bf16", "amx_bf16", "bf16"}, "float16": {"avx512_fp16", "amx_fp16", "asimdhp"}}


@dataclass(frozen=True)
class Device:
    """Where the model lives, in which type it computes, and the reason in words; `warning` is what makes that slow."""

    name: str
    dtype: torch.dtype
    reason: str
    warning: str | None = None

    @property
    def type_name(self) -> str:
        """The type as a recipe spells it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def narrow(self) -> bool:
        """Whether it computes in less than float32."""
        return self.dtype is not torch.float32

    @property
    def stride(self) -> int:
        """Tokens that go through the layers together where nothing is kept for a backward pass.

        On a CPU what one layer hands to the next stays in its caches: 512 tokens of SmolLM2 took 0.7 of the time a token
        that 2,048 took. A GPU wants to be filled.
        """
        return 512 if self.name == "cpu" else 8192


def choose_device(wanted: str, dtype: str = "auto") -> Device:
    """The device and its type: `auto` is bfloat16 on a GPU that has it (compute capability 8.0), float32 elsewhere.

    A CPU computes in float32 unless it is told otherwise: bfloat16 is several times slower on one without it.

    Raises:
        ModelError: a GPU was asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError("device cuda was asked for, but torch finds no CUDA GPU", "leave --device out, or use cpu")
    if wanted == "cpu" or not torch.cuda.is_available():
        why = "asked for" if wanted == "cpu" else "no CUDA GPU"
        flags = _cpu_flags()
        native = {name for name, known in FLAGS.items() if not known.isdisjoint(flags)}
        kind, said, warning = _type(dtype, "float32", native)
        return Device("cpu", kind, f"cpu ({why}), {said}, {counted(torch.get_num_threads(), 'thread')}", warning)
    # TF32 keeps 10 bits of the mantissa; laws compare to 1e-4.
    torch.backends.cuda.matmul.allow_tf32 = False
    has = torch.cuda.get_device_capability()[0] >= 8
    native = {"float16", "bfloat16"} if has else {"float16"}
    kind, said, warning = _type(dtype, "bfloat16" if has else "float32", native)
    return Device("cuda", kind, f"{torch.cuda.get_device_name()}, {said}", warning)


def _type(asked: str, best: str, native: Collection[str]) -> tuple[torch.dtype, str, str | None]:
    """The type, the reason in words, and a warning where it is emulated."""
    if asked == "auto":
        has = "it has bfloat16" if "bfloat16" in native else "it has no bfloat16 of its own"
        more = ", which is too coarse for exact comparisons" if best == "float32" and "bfloat16" in native else ""
        return TYPES[best], f"{best} ({has}{more})", None
    if asked == "float32" or asked in native:
        return TYPES[asked], f"{asked} (asked for)", None
    slow = f"{asked} is emulated on this device, about 7 times slower than float32: --dtype float32"
    return TYPES[asked], f"{asked} (asked for, emulated)", f"warning: {slow}"


def _cpu_flags() -> list[str]:
    """What the processor says it can do; elsewhere than on Linux it is not known."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            line = next((line for line in file if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        return []
    return line.split()


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
