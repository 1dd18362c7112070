"""A mask adapter becomes a folder that PEFT loads: SHIRA for linear layers, whole modules for norms and a new classifier.

PEFT's SHIRA holds changes to the weights of linear layers (adapter/shira.py). Norms, and a classifier all of which has moved,
are small: they are written whole, W + D, beside SHIRA as modules to save, or as LN_TUNING where nothing else has moved. What is
left is refused by name: parts of embeddings, of GPT-2's Conv1D, of biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ctxtune.adapter.card import model_card
from ctxtune.adapter.change import changes, tuned_module
from ctxtune.adapter.container import PREFIX, layer_config, layer_tensors
from ctxtune.adapter.folder import require_new
from ctxtune.adapter.mask import read_changes, read_mask
from ctxtune.adapter.read import manifest_of
from ctxtune.adapter.shira import CONTAINER, fitting, padded, shira_config, shira_names
from ctxtune.adapter.write import write_adapter
from ctxtune.backend.mask import numel
from ctxtune.backend.quantise import is_linear
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.adapter.weights import Weights
    from ctxtune.backend.mask import Mask, Part

_ELSE = "`--to lora` holds it, and `ctxtune adapter merge` writes it into its base"


@dataclass(frozen=True)
class Sparse:
    """What was written: PEFT's type, the bytes of the tensors, and of SHIRA r and the places that are padding."""

    container: str
    num_bytes: int
    r: int = 0
    padding: int = 0


def export_mask(adapter: AdapterFile, weights: Weights, out: Path) -> Sparse:
    """Write a mask adapter as a PEFT folder; the manifest stands in its header.

    Raises:
        AdapterError: PEFT has no type for what moves; the message names the parameter.
        PlaceError: `out` holds something, or cannot be written.
    """
    require_new(out)
    mask = read_mask(adapter.path, adapter.header)
    moves = read_changes(adapter.path, adapter.header, mask)
    manifest = manifest_of(adapter)
    _check_places(adapter, weights, mask)
    linear = {name: part for name, part in mask.items() if _is_shira(weights.module(name), part)}
    whole = _whole(adapter, weights, mask, set(mask) - set(linear))
    base, card = manifest.base, model_card(manifest, in_peft=True)
    if not linear:
        config = layer_config(whole, base.name, base.causal)
        return Sparse("LN_TUNING", write_adapter(out, layer_tensors(whole), manifest, config, card))
    try:
        r = fitting(linear)
    except ValueError as error:
        raise AdapterError(
            f"{adapter.path}: PEFT's SHIRA holds r (N + K) numbers of each layer: {error}", _ELSE
        ) from error
    tensors = {f"{PREFIX}{module}.{last}": value for module, new in whole.items() for last, value in new.items()}
    for name, part in linear.items():
        names = shira_names(name.removesuffix(".weight"))
        made = padded(part, moves[name], r)
        tensors |= dict(zip(names, map(torch.from_numpy, made), strict=True))
    config = shira_config((name.removesuffix(".weight") for name in linear), r, whole, base.name, base.causal)
    places = r * sum(sum(part.size) for part in linear.values())
    return Sparse(CONTAINER, write_adapter(out, tensors, manifest, config, card), r, places - numel(linear))


def _is_shira(module: nn.Module, part: Part) -> bool:
    return type(module) is torch.nn.Linear and len(part.size) == 2 and part.kind != "whole"


def _check_places(adapter: AdapterFile, weights: Weights, mask: Mask) -> None:
    """Every parameter is in the base, and in one module: of those that share it PEFT would change one, and say nothing."""
    for name, part in mask.items():
        weights.check(name, part.size)
        shared = [other for other in weights.names(name) if other != name]
        if shared:
            raise AdapterError(
                f"{adapter.path}: {name} is also {shared[0]}, and PEFT would change one of the two", _ELSE
            )


def _whole(adapter: AdapterFile, weights: Weights, mask: Mask, names: set[str]) -> dict[str, dict[str, torch.Tensor]]:
    """Module -> all its parameters as they are with the adapter, in float32 at least."""
    moved = {change.name: change for change in changes(adapter)}
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name in (name for name in mask if name in names):
        module = weights.module(name)
        place = name.rpartition(".")[0]
        own = [f"{place}.{last}" for last, _ in module.named_parameters(recurse=False)]
        heavy = is_linear(module) or isinstance(module, torch.nn.Embedding)
        if heavy and not all(other in mask and mask[other].kind == "whole" for other in own):
            what = (
                f"{'some of the ' * (mask[name].kind != 'whole')}{name.rpartition('.')[2]} of a {type(module).__name__}"
            )
            raise AdapterError(f"{adapter.path}: {name}, {what}, has no place in PEFT's SHIRA and LN_TUNING", _ELSE)
        if place not in found:
            found[place] = tuned_module(weights, moved, place)
    return found
