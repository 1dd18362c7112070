"""SHIRA, PEFT's container of sparse changes to linear layers (Bhardwaj et al. 2024): W' = W + D, D at r (N + K) places of each.

    base_model.model.<module>.shira_weight    [r (N + K)]      float32
    base_model.model.<module>.shira_indices   [2, r (N + K)]   int32, row and column of each place

One r holds for all layers, so that a mask is padded with places that it does not choose, whose change is 0. Modules that are
trained as a whole can stand beside them, `base_model.model.<module>.<parameter>`, and are named in `modules_to_save`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxtune.adapter.container import PREFIX
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.mask import Mask, Part

CONTAINER = "SHIRA"
WEIGHT = ".shira_weight"
INDICES = ".shira_indices"


def shira_config(modules: Iterable[str], r: int, whole: Iterable[str], base_name: str, causal: bool) -> dict[str, Any]:
    """adapter_config.json for the modules and those beside them, all named in full."""
    return {
        "auto_mapping": None,
        "base_model_name_or_path": base_name,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_weights": True,
        "mask_type": "ctxtune",  # PEFT draws none of its own for a name that it does not know: the file brings the places
        "modules_to_save": sorted(whole) or None,
        "peft_type": CONTAINER,
        "r": r,
        "revision": None,
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM" if causal else None,
    }


def fitting(mask: Mask) -> int:
    """The smallest r with which every layer has room for what is chosen of it.

    Raises:
        ValueError: a smaller layer has fewer than r (N + K) numbers; the message names both.
    """
    needs = {name: max(1, math.ceil(part.numel / sum(part.size))) for name, part in mask.items()}
    most = {name: math.prod(part.size) // sum(part.size) for name, part in mask.items()}
    dense, small = max(needs, key=needs.__getitem__), min(most, key=most.__getitem__)
    if needs[dense] > most[small]:
        raise ValueError(
            f"{mask[dense].numel:,} numbers of {dense} need r = {needs[dense]}, and {small} has room for r = {most[small]}"
        )
    return needs[dense]


def padded(part: Part, values: NDArray[np.float64], r: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """`shira_weight` and `shira_indices` of one layer, in the order of the places."""
    chosen, count = part.entries(), r * sum(part.size)
    free = np.setdiff1d(np.arange(count), chosen)[: count - len(chosen)]  # as many lie there at least
    places = np.concatenate([chosen, free])
    weight = np.concatenate([values.reshape(-1), np.zeros(len(free))])
    order = np.argsort(places)
    rows, columns = np.divmod(places[order], part.size[1])
    return weight[order].astype(np.float32), np.stack([rows, columns]).astype(np.int32)


def shira_names(module: str) -> tuple[str, str]:
    """The tensors of a module: weight and indices."""
    return f"{PREFIX}{module}{WEIGHT}", f"{PREFIX}{module}{INDICES}"


def sparse_parts(adapter: AdapterFile) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """The modules with sparse changes, and the whole parameters beside them: tensor name -> (module, parameter).

    Raises:
        AdapterError: a tensor lacks its partner, or the two do not fit.
    """
    tensors = adapter.header.tensors
    modules, whole = [], {}
    for name in tensors:
        place = name.removeprefix(PREFIX)
        if not name.startswith(PREFIX):
            raise AdapterError(f"{adapter.path}: tensor {name!r} is not named as PEFT names tensors")
        if not place.endswith((WEIGHT, INDICES)):
            module, _, parameter = place.rpartition(".")
            whole[name] = module, parameter
            continue
        module = place.removesuffix(WEIGHT).removesuffix(INDICES)
        weight, indices = (tensors.get(own) for own in shira_names(module))
        if weight is None or indices is None:
            raise AdapterError(f"{adapter.path}: tensor {name!r} stands without its partner")
        fits = len(weight.shape) == 1 and weight.shape[0] and indices.shape == (2, *weight.shape)
        if not fits or indices.dtype not in ("I32", "I64", "F32"):  # floats are what PEFT writes on Windows
            told = f"{list(weight.shape)} and {indices.dtype} {list(indices.shape)}"
            raise AdapterError(f"{adapter.path}: weight and indices of {module} do not fit: {told}")
        if place.endswith(WEIGHT):
            modules.append(module)
    return modules, whole
