"""Mask adapters of several tasks become one: D = sum of w_i D_i, on the union of their masks.

Where no number is in two masks, each adapter keeps all that it learned (w = 1). Where one is, tasks pull at the same number:
that is refused, unless weights say what each counts (task arithmetic, Ilharco et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctxtune.adapter.card import model_card
from ctxtune.adapter.folder import require_new
from ctxtune.adapter.header import SHA256
from ctxtune.adapter.manifest import Change as Scores
from ctxtune.adapter.mask import CONTAINER, DELTA, check_moved, encode, read_changes, read_mask, sizes_text
from ctxtune.adapter.read import check_base, manifest_of
from ctxtune.adapter.write import write_adapter
from ctxtune.backend.mask import intersection, numel, union
from ctxtune.errors import AdapterError
from ctxtune.recipe.plural import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctxtune.adapter.manifest import Manifest
    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.mask import Mask, Part

_NAMED = 3  # parameters that an error names


@dataclass(frozen=True)
class Composed:
    """What was written: bytes, numbers that move, and how many of these are in more than one mask."""

    num_bytes: int
    numbers: int
    shared: int


def compose(adapters: Sequence[AdapterFile], weights: Sequence[float] | None, out: Path) -> Composed:
    """Write the sum of mask adapters of one base as a mask adapter; its recipe, which says how to ask, is the first one's.

    Changes keep their type where nothing is weighed, and are float32 elsewhere.

    Raises:
        AdapterError: one is no mask adapter, they are of several bases or classes, or have numbers in common and no `weights`.
        PlaceError: `out` holds something, or cannot be written.
    """
    require_new(out)
    masks = [_mask(adapter) for adapter in adapters]
    manifest = _one_base(adapters)
    shared = _shared(adapters, masks)
    if weights is None and shared:
        raise _overlapping(adapters, masks)
    whole = reduce(union, masks)
    types = {
        adapter.header.tensors[name + DELTA].dtype
        for adapter, mask in zip(adapters, masks, strict=True)
        for name in mask
    }
    stored = torch.bfloat16 if types == {"BF16"} and weights is None else torch.float32
    summed = {name: np.zeros(part.numel) for name, part in whole.items()}
    for adapter, mask, weight in zip(adapters, masks, weights or [1.0] * len(masks), strict=True):
        for name, change in read_changes(adapter.path, adapter.header, mask).items():
            summed[name][_within(mask[name], whole[name])] += weight * change.reshape(-1)
    tensors = {}
    for name, part in whole.items():
        tensors[f"{name}.{part.kind}"] = torch.from_numpy(encode(part))
        tensors[name + DELTA] = torch.from_numpy(summed[name]).view(part.shape).to(stored)
    told = _manifest(manifest, adapters, weights, numel(whole))
    size = write_adapter(out, tensors, told, None, model_card(told), sizes_text(whole))
    return Composed(size, numel(whole), shared)


def _mask(adapter: AdapterFile) -> Mask:
    if adapter.container != CONTAINER:
        raise AdapterError(
            f"{adapter.path} holds no changes to add, it is a {adapter.kind} adapter of the container {adapter.container}",
            "`ctxtune adapter merge` one of them",
        )
    mask = read_mask(adapter.path, adapter.header)
    check_moved(adapter.path, adapter.header, mask)
    return mask


def _one_base(adapters: Sequence[AdapterFile]) -> Manifest:
    """The first manifest; all are of one base, and tell the same classes apart."""
    first, *others = (manifest_of(adapter) for adapter in adapters)
    for adapter, other in zip(adapters[1:], others, strict=True):
        check_base(adapter, first.base.fingerprint)
        if other.classes != first.classes:
            raise AdapterError(f"{adapter.path} tells apart {other.classes}, and {adapters[0].path} {first.classes}")
    return first


def _shared(adapters: Sequence[AdapterFile], masks: Sequence[Mask]) -> int:
    """How many numbers are in more than one mask."""
    try:
        pairs = [intersection(one, other) for one, other in combinations(masks, 2)]
    except ValueError as error:
        raise AdapterError(f"{adapters[0].path} and the others: {error}", "compose adapters of one base") from error
    found: Mask = {}
    for pair in pairs:
        found = union(found, pair)
    return numel(found)


def _overlapping(adapters: Sequence[AdapterFile], masks: Sequence[Mask]) -> AdapterError:
    """Of the first two that have numbers in common."""
    pairs = combinations(zip(adapters, masks, strict=True), 2)
    one, other, both = next(
        (one.path.parent, other.path.parent, both)
        for (one, mask), (other, theirs) in pairs
        if (both := intersection(mask, theirs))
    )
    most = sorted(both, key=lambda name: -both[name].numel)
    told = ", ".join(f"{both[name].numel:,} of {name}" for name in most[:_NAMED])
    rest = f", ... in {counted(len(both), 'tensor')}" if len(both) > _NAMED else ""
    return AdapterError(
        f"{one} and {other} both move {numel(both):,} numbers: {told}{rest}",
        "say what each counts: --weights 0.5,0.5, or train them on masks without common numbers",
    )


def _within(part: Part, whole: Part) -> NDArray[np.int64]:
    """Where the numbers of a part stand among those of one that holds it."""
    places = whole.entries()
    order = np.argsort(places)
    found: NDArray[np.int64] = order[np.searchsorted(places, part.entries(), sorter=order)]
    return found


def _manifest(
    first: Manifest, adapters: Sequence[AdapterFile], weights: Sequence[float] | None, numbers: int
) -> Manifest:
    """Nobody has scored what was composed."""
    quants = {manifest_of(adapter).quant for adapter in adapters}
    return replace(
        first,
        settings={
            "composed": [str(adapter.path) for adapter in adapters],
            "weights": list(weights) if weights else None,
        },
        inputs={str(adapter.path): f"sha256:{adapter.header.metadata.get(SHA256, '')}" for adapter in adapters},
        quant=first.quant if len(quants) == 1 else "none",
        leaked=0,
        trainable=numbers,
        scores=Scores(),
        forgetting=Scores(),
    )
