"""An adapter's single file becomes a folder that PEFT loads, with no ctxtune installed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.card import model_card
from ctxtune.adapter.container import layer_config, layer_names
from ctxtune.adapter.folder import CARD, CONFIG, TENSORS, require_new
from ctxtune.adapter.header import SHA256
from ctxtune.adapter.prefix import SUFFIX, config_of, layout_of, shown
from ctxtune.backend.atomic import new_folder, write_text
from ctxtune.backend.tensors import mapped, write_tensors
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from pathlib import Path

    from ctxtune.adapter.read import AdapterFile


def export_peft(adapter: AdapterFile, out: Path) -> int:
    """Write `adapter` as a plain PEFT folder; returns the size of its tensors' file.

    The manifest stays in the header, where PEFT does not look.

    Raises:
        AdapterError: PEFT has no type for this adapter.
        PlaceError: `out` holds something, or cannot be written.
    """
    config = _config(adapter)
    require_new(out)
    layout = {name: (info.dtype, info.shape) for name, info in adapter.header.tensors.items()}
    with mapped(adapter.path) as view, new_folder(out) as tmp:

        def data(name: str) -> memoryview:
            info = adapter.header.tensors[name]
            return view[info.begin : info.end]

        metadata = {**adapter.header.metadata, "format": "pt"}  # PEFT's reader insists on the format
        num_bytes = write_tensors(tmp / TENSORS, layout, metadata, data, SHA256)
        write_text(tmp / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        if adapter.manifest:
            write_text(tmp / CARD, model_card(adapter.manifest))
    return num_bytes


def _config(adapter: AdapterFile) -> dict[str, Any]:
    if adapter.container == "LN_TUNING" and adapter.manifest:
        base = adapter.manifest.base
        modules = {module for module, _ in layer_names(adapter.header.tensors).values()}
        return layer_config(modules, base.name, base.causal)
    if adapter.container == SUFFIX:
        raise AdapterError(
            f"{adapter.path}: PEFT has no type for vectors that stand behind the input",
            "`ctxtune adapter export --to model` makes them words of an ordinary checkpoint",
        )
    if adapter.manifest and shown(adapter) is not None:
        return config_of(adapter.container, layout_of(adapter), adapter.manifest.base.name)
    if adapter.config is not None:
        return adapter.config
    raise AdapterError(f"{adapter.path}: PEFT has no type that holds a {adapter.kind} adapter")
