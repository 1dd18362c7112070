"""A run's state on disk where its numbers are shared out: each process writes its part (torch.distributed.checkpoint).

    checkpoint-120/     the parts, which another number of processes can read, one alone too
    checkpoint.json     which folder counts, and what the loop counted: it is written last

The folder holds a pickle of torch's: it is private to the run, and belongs to nobody else.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import torch

from ctxtune.backend.atomic import remove, storing, write_text
from ctxtune.errors import CtxtuneError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from ctxtune.backend.ranks import Ranks


def pointer(path: Path) -> Path:
    """The file that says which parts count, beside the checkpoint that one process writes."""
    return path.with_suffix(".json")


def write_parts(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], ranks: Ranks) -> None:
    """Write what each process holds; the leader says then that it counts, and removes what counted before."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    folder = path.with_name(f"{path.stem}-{state['loop']['step']}")
    with storing(folder):
        if ranks.leads:
            remove(folder)
            folder.mkdir(mode=0o700)
        ranks.meet()
        save(dict(tensors), storage_writer=FileSystemWriter(str(folder), sync_files=True))
        if not ranks.leads:
            return
        write_text(pointer(path), json.dumps({"folder": folder.name, "state": state}) + "\n")
    for other in path.parent.glob(f"{path.stem}-*"):
        if other.name != folder.name:
            remove(other)
    remove(path)


def forget_parts(path: Path) -> None:
    """Remove parts that no longer count."""
    remove(pointer(path))
    for folder in path.parent.glob(f"{path.stem}-*"):
        remove(folder)


def read_pointer(path: Path) -> dict[str, Any] | None:
    """What `write_parts` said last; None where there are no parts.

    Raises:
        CtxtuneError: it cannot be read.
    """
    if not pointer(path).exists():
        return None
    try:
        told: dict[str, Any] = json.loads(pointer(path).read_text(encoding="utf-8"))
        if os.path.basename(told["folder"]) != told["folder"] or not isinstance(told["state"], dict):
            raise ValueError("it names no folder beside it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(path, error) from error
    return told


def read_parts(path: Path, told: Mapping[str, Any], params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors; of those that are as large as the parameter they are named after, what this process holds of it.

    Raises:
        CtxtuneError: they are broken.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(str(path.with_name(told["folder"])))
    try:
        into = {
            name: _empty(params.get(name.partition(".")[2]), one)
            for name, one in reader.read_metadata().state_dict_metadata.items()
        }
        load(into, storage_reader=reader)
    except Exception as error:  # whatever torch comes upon in a pickle
        raise _broken(path, error) from error
    return into


def _empty(like: Tensor | None, known: Any) -> Tensor:
    if like is not None and like.shape == known.size:
        return torch.empty_like(like, dtype=known.properties.dtype, requires_grad=False)
    return torch.empty(known.size, dtype=known.properties.dtype)


def _broken(path: Path, error: Exception) -> CtxtuneError:
    reason = " ".join(str(error).split()) or type(error).__name__
    way_out = f"choose another --out, or remove {pointer(path)}, and --resume trains from the beginning"
    return CtxtuneError(f"{pointer(path)}: the checkpoint cannot be read: {reason}", way_out)
