"""A run's state on disk: one safetensors file, written whole or not at all; in parts (parts.py) where numbers are shared.

It holds the trained numbers, the optimiser's moments, torch's random state, and in the header what the loop counts: so a
run that was killed goes on as if nothing had happened, bit for bit on one device.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ctxtune.backend.atomic import storing, temporary_name
from ctxtune.backend.ranks import ALONE
from ctxtune.backend.sharding import placed, whole
from ctxtune.engine import parts
from ctxtune.errors import CtxtuneError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ctxtune.backend.ranks import Ranks

_BESIDE = "beside."
_Restore = Callable[[Mapping[str, Tensor]], None]


def write_checkpoint(
    path: Path, params: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, state: Mapping[str, Any],
    beside: Mapping[str, Tensor] = MappingProxyType({}), ranks: Ranks = ALONE,
) -> None:  # fmt: skip
    """Write everything that a resumed run needs; `beside` the numbers says where in the model they belong."""
    if not ranks.leads and not ranks.sharded:
        return
    tensors: dict[str, Tensor] = {"rng": torch.get_rng_state(), **_named(beside)}
    for name, param in params.items():
        tensors[f"param.{name}"] = param.detach()
        for moment, tensor in optimizer.state.get(param, {}).items():
            tensors[f"{moment}.{name}"] = tensor
    if ranks.sharded:
        parts.write_parts(path, tensors, state, ranks)
        return
    _write(path, tensors, state)
    parts.forget_parts(path)


def exists(path: Path) -> bool:
    """Whether there is a checkpoint."""
    return path.exists() or parts.pointer(path).exists()


def read_checkpoint(
    path: Path, params: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, restore: _Restore | None = None
) -> dict[str, Any]:
    """Put the state back into parameters and optimiser; returns what the loop counted. `restore` gets what stood beside.

    Raises:
        CtxtuneError: the file is broken or belongs to another choice of parameters.
    """
    told = _newer_parts(path)
    tensors, state = _read(path) if told is None else (parts.read_parts(path, told, params), told["state"])
    if {name[6:] for name in tensors if name.startswith("param.")} != set(params):
        raise CtxtuneError(f"{path}: the checkpoint belongs to another choice of layers", _way_out(path))
    if restore is not None:
        restore(_beside(tensors))
    with torch.no_grad():
        for name, param in params.items():
            param.copy_(placed(tensors[f"param.{name}"], param))
    for key, tensor in tensors.items():
        moment, _, name = key.partition(".")
        if name in params and not key.startswith(("param.", _BESIDE)):
            param, kept = params[name], tensor.clone()
            own = kept.shape == param.shape
            optimizer.state[param][moment] = placed(kept, param) if own else kept.to(param.device)
    torch.set_rng_state(tensors["rng"])
    return state


def write_params(
    path: Path, params: Mapping[str, Tensor], state: Mapping[str, Any],
    beside: Mapping[str, Tensor] = MappingProxyType({}), ranks: Ranks = ALONE,
) -> None:  # fmt: skip
    """Write the trained numbers alone, and where they belong: the best ones so far."""
    numbers = {f"param.{name}": whole(param.detach()) for name, param in params.items()}
    if ranks.leads:
        _write(path, {**numbers, **_named(beside)}, state)


def read_params(
    path: Path, params: Mapping[str, nn.Parameter], last: Path | None = None, restore: _Restore | None = None
) -> dict[str, Any]:
    """Put numbers that `write_params` wrote back into the parameters; `last` is the state that counts on them."""
    tensors, state = _read(path, last)
    if restore is not None:
        restore(_beside(tensors))
    with torch.no_grad():
        for name, param in params.items():
            param.copy_(placed(tensors[f"param.{name}"], param))
    return state


def _named(beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_BESIDE + name: tensor for name, tensor in beside.items()}


def _beside(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(_BESIDE): tensor for name, tensor in tensors.items() if name.startswith(_BESIDE)}


def read_state(path: Path) -> dict[str, Any] | None:
    """What the loop counted, without the tensors; None where there is no checkpoint."""
    told = _newer_parts(path)
    if told is not None:
        found: dict[str, Any] = told["state"]
        return found
    return _state(path) if path.exists() else None


def _newer_parts(path: Path) -> dict[str, Any] | None:
    """The parts that count: a process that was killed may have left an older file beside them, or they beside a newer one."""
    told = parts.read_pointer(path)
    if told is None or not path.exists():
        return told
    return told if told["state"]["loop"]["step"] >= _state(path)["loop"]["step"] else None


def _state(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = json.loads(file.metadata()["state"])
            return state
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CtxtuneError(f"{path}: the checkpoint cannot be read: {error}", _way_out(path)) from error


def _write(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    contiguous = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    num_bytes = sum(tensor.nbytes for tensor in contiguous.values())
    part = temporary_name(path)
    with storing(path, num_bytes):
        try:
            _save(contiguous, part, {"state": json.dumps(state)})
            part.chmod(0o600)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """safetensors reports a full disk as an error of its own: turn it back into what it is."""
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(errno.ENOSPC if "No space" in str(error) else errno.EIO, str(error)) from error


def _read(path: Path, last: Path | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CtxtuneError(f"{path}: the checkpoint cannot be read: {error}", _way_out(last or path)) from error


def _way_out(path: Path) -> str:
    """Without the file the run begins anew."""
    return f"choose another --out, or remove {path}, and --resume trains from the beginning"
