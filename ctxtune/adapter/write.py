"""Write an adapter folder: the tensors with the manifest in their header, PEFT's configuration, the model card."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from ctxtune.adapter.folder import CARD, CONFIG, TENSORS, require_free
from ctxtune.adapter.header import KEY, SHA256
from ctxtune.backend.atomic import new_folder, write_text
from ctxtune.backend.tensors import write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ctxtune.adapter.manifest import Manifest

DTYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_adapter(
    folder: Path, tensors: Mapping[str, torch.Tensor], manifest: Manifest, config: dict[str, Any] | None, card: str,
    more: Mapping[str, str] = MappingProxyType({}),
) -> int:  # fmt: skip
    """Write the complete adapter or nothing; an older adapter in `folder` is replaced. The header says `more` as well.

    Returns the size of the tensors' file.

    Raises:
        StorageError: no room, no permission, or `folder` holds something that is not an adapter.
    """
    require_free(folder)
    layout = {name: (DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    metadata = {"format": "pt", KEY: manifest.to_json(), **more}
    with new_folder(folder) as tmp:
        num_bytes = write_tensors(tmp / TENSORS, layout, metadata, lambda name: raw(tensors[name]), SHA256)
        if config is not None:
            write_text(tmp / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        write_text(tmp / CARD, card)
    return num_bytes


def raw(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor, in row order."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy().data)
