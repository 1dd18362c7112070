"""A share of an adapter as an adapter of its own: W' becomes W + alpha (W' - W), which forgets less (Wortsman et al. 2022)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from ctxtune.adapter.bits import CONTAINER as BITS
from ctxtune.adapter.card import SCALED, model_card
from ctxtune.adapter.change import toward
from ctxtune.adapter.container import layer_config, layer_names
from ctxtune.adapter.folder import require_new
from ctxtune.adapter.manifest import Change
from ctxtune.adapter.mask import CONTAINER as MASK
from ctxtune.adapter.mask import DELTA, check_moved, read_mask, sizes_text
from ctxtune.adapter.read import manifest_of
from ctxtune.adapter.write import write_adapter
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.adapter.weights import Weights

WHOLE = "LN_TUNING"


def check_scalable(adapter: AdapterFile) -> None:
    """Refuse an adapter of which there are no shares.

    Raises:
        AdapterError: it changes no weight, or another program's rules say what it is.
    """
    if adapter.manifest is None:
        raise AdapterError(
            f"{adapter.path} was written by another program, which has its own rule for a share of it",
            "of a LoRA: lora_alpha in its adapter_config.json",
        )
    if adapter.container == BITS:
        raise AdapterError(
            f"{adapter.path}: a weight is switched off or it is not, a file of bits holds no share of that",
            "`ctxtune eval --alpha` scores shares",
        )
    if adapter.container not in (MASK, WHOLE):
        raise AdapterError(
            f"{adapter.path} changes no weight: a share of a {adapter.kind} adapter is no share of what it does",
            "freeze and mask adapters have shares",
        )


def scale(adapter: AdapterFile, alpha: float, base: Weights | None, out: Path) -> int:
    """Write `alpha` of an adapter to the folder `out`; returns the size of its tensors' file.

    Whole values need those of the `base`. Changes keep their type where they are exact in it, and are float32 elsewhere. Nobody
    has scored a share: of the scores those of the base stay.

    Raises:
        AdapterError: it has no shares, or is for parameters of another shape.
        PlaceError: `out` holds something, or cannot be written.
    """
    check_scalable(adapter)
    require_new(out)
    manifest = manifest_of(adapter)
    told = replace(
        manifest,
        settings={**manifest.settings, SCALED: alpha * manifest.settings.get(SCALED, 1.0)},
        scores=Change(manifest.scores.before),
        forgetting=Change(manifest.forgetting.before),
    )
    file: Any = safe_open(str(adapter.path), framework="pt", device="cpu")
    if adapter.container == MASK:
        mask = read_mask(adapter.path, adapter.header)
        check_moved(adapter.path, adapter.header, mask)
        tensors = {name: _share(file.get_tensor(name), name, alpha) for name in adapter.header.tensors}
        return write_adapter(out, tensors, told, None, model_card(told), sizes_text(mask))
    assert base is not None
    places, found = layer_names(adapter.header.tensors), {}
    for name, (module, parameter) in places.items():
        new = file.get_tensor(name)
        found[name] = toward(base.read(f"{module}.{parameter}", new.shape).to(new.dtype), new, alpha)
    config = layer_config({module for module, _ in places.values()}, told.base.name, told.base.causal)
    return write_adapter(out, found, told, config, model_card(told))


def _share(tensor: Tensor, name: str, alpha: float) -> Tensor:
    if not name.endswith(DELTA):
        return tensor
    exact = tensor.to(torch.float32) * alpha
    return exact.to(tensor.dtype) if torch.equal(exact.to(tensor.dtype).to(torch.float32), exact) else exact
