"""A configuration file of Accelerate (`accelerate config` writes it): how many processes, where they meet, how they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from ctxtune.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

_KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP")
_TYPES = {"no": None, "bf16": "bfloat16"}


@dataclass(frozen=True)
class Processes:
    """`nproc` processes on each of `nnodes` machines that meet at `rdzv`; None is what nobody has said."""

    nproc: int = 1
    nnodes: int = 1
    rdzv: str | None = None
    sharded: bool = False
    device: str | None = None
    dtype: str | None = None


def read_config(path: Path) -> Processes:
    """What a file says.

    Raises:
        RecipeError: it cannot be read, or asks for what is not to be had here.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise RecipeError(f"--accelerate {path}: {reason}", "name a file that `accelerate config` wrote") from error
    if not isinstance(said, dict) or "distributed_type" not in said:
        raise RecipeError(f"--accelerate {path}: no distributed_type", "name a file that `accelerate config` wrote")
    kind = _one_of(path, said, "distributed_type", {name: name for name in _KINDS})
    nodes = _count(path, said, "num_machines")
    total = _count(path, said, "num_processes") if kind != "NO" else 1
    if total % nodes:
        raise RecipeError(f"--accelerate {path}: num_processes {total} on {nodes} machines", "the same number on each")
    host, port = said.get("main_process_ip"), said.get("main_process_port")
    return Processes(
        total // nodes,
        nodes,
        f"{host}:{port}" if host and port else host,
        kind == "FSDP",
        "cpu" if said.get("use_cpu") is True or kind == "MULTI_CPU" else None,
        _one_of(path, {"mixed_precision": "no", **said}, "mixed_precision", _TYPES),
    )


def _count(path: Path, said: dict[str, Any], key: str) -> int:
    count = said.get(key, 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 65_536:
        raise RecipeError(f"--accelerate {path}: {key} is {count!r}, it should be a number from 1 on", "correct it")
    return count


def _one_of(path: Path, said: dict[str, Any], key: str, known: dict[str, Any]) -> Any:
    value = said[key]
    value = "no" if value is False and "no" in known else value  # YAML 1.1 reads a bare no as false
    if not isinstance(value, str) or value not in known:
        raise RecipeError(f"--accelerate {path}: {key} {value!r} is not to be had", f"one of {', '.join(known)}")
    return known[value]
