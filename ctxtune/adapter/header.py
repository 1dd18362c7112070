"""The header of an adapter file: what tensors it holds and the manifest, read without torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ctxtune.backend import tensors
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from pathlib import Path

    from ctxtune.backend.tensors import Header

KEY = "ctxtune"
"""the metadata key under which the manifest stands as JSON"""
SHA256 = "ctxtune_sha256"
"""that of the sha256 of all bytes after the header"""


def read_header(path: Path) -> Header:
    """The checked header of a safetensors file.

    Raises:
        AdapterError: the file is missing, cut short, or its header lies.
    """
    return tensors.read_header(path, AdapterError)


def manifest(header: Header) -> dict[str, Any] | None:
    """The manifest as JSON, None if the file carries none (another program wrote it)."""
    text = header.metadata.get(KEY)
    if text is None:
        return None
    try:
        fields = json.loads(text)
        json.dumps(fields, ensure_ascii=False).encode()  # a lone surrogate, which JSON can spell, is no text
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"the ctxtune manifest in the adapter's header is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise AdapterError("the ctxtune manifest in the adapter's header is not a JSON object")
    return fields
