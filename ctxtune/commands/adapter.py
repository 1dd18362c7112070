"""Look at an adapter, check it, merge it into its base. Looking and checking load no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxtune.adapter.bits import CONTAINER as BITS
from ctxtune.adapter.extent import extents
from ctxtune.adapter.mask import CONTAINER as MASK
from ctxtune.adapter.overlap import overlaps
from ctxtune.adapter.read import BASE, AdapterFile, check_base, check_bytes, check_known, name_of_base, open_adapter
from ctxtune.adapter.verify import Check
from ctxtune.adapter.verify import verify as check_adapter
from ctxtune.backend.fingerprint import fingerprint
from ctxtune.backend.folder import resolve_model
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.adapter.extent import Extent, Numbers
    from ctxtune.adapter.manifest import Manifest
    from ctxtune.adapter.merge import Merged
    from ctxtune.adapter.overlap import Overlap
    from ctxtune.backend.tensors import TensorInfo


@dataclass(frozen=True)
class ShownAdapter:
    """What an adapter's header and configuration tell."""

    file: Path
    kind: str
    container: str
    numbers: int
    num_bytes: int
    tensors: dict[str, TensorInfo]
    manifest: Manifest | None
    base: str | None
    start: str | None
    """what virtual tokens started as"""
    moved: list[Extent] | None
    """of a mask adapter: which layers and kinds move, and how far"""
    note: str | None
    """what could not be checked"""
    overlap: list[Overlap] | None
    """of a mask adapter: how much of it another chooses as well"""


@dataclass(frozen=True)
class VerifiedAdapter:
    """The checks, in order, and whether all of them passed."""

    file: Path
    ok: bool
    checks: list[Check]


@dataclass(frozen=True)
class MergedAdapter:
    """What `adapter merge` wrote; `note` is something that could not be checked."""

    merged: Merged
    note: str | None


def show(place: Path, model: str | None = None, against: Path | None = None) -> ShownAdapter:
    """The facts of one adapter; of a mask adapter also how far it moves, with `model` in shares of that base's numbers, and
    how much of it the mask `against` chooses as well.

    Raises:
        AdapterError: an adapter cannot be read, or was made on another base; one that is compared holds no mask.
        RecipeError: there is a model, and no mask adapter.
    """
    adapter = open_adapter(place)
    if model and adapter.container != MASK:
        other = "holds bits, which change by all or nothing" if adapter.container == BITS else "is none"
        raise RecipeError(f"--model is for mask adapters, and {adapter.path} {other}", "leave it out")
    base = resolve_model(model) if model else None
    note = check_base(adapter, fingerprint(base)) if base else None
    config = adapter.config or {}
    return ShownAdapter(
        file=adapter.path,
        kind=adapter.kind,
        container=adapter.container,
        numbers=adapter.numbers,
        num_bytes=adapter.header.file_size,
        tensors=adapter.header.tensors,
        manifest=adapter.manifest,
        base=adapter.manifest.base.name if adapter.manifest else config.get(BASE),
        start=adapter.manifest.start if adapter.manifest else None,
        moved=extents(adapter, _numbers(base, adapter) if base else None)
        if adapter.container in (MASK, BITS)
        else None,
        note=note,
        overlap=overlaps(adapter, open_adapter(against)) if against is not None else None,
    )


def _numbers(base: Path, adapter: AdapterFile) -> Numbers:
    from ctxtune.adapter.weights import open_weights

    weights = open_weights(base, adapter.classes)
    return lambda name, size: weights.read(name, size).double().numpy()


def verify(place: Path, model: str | None = None) -> VerifiedAdapter:
    """Check an adapter, with `model` also against that base."""
    adapter = open_adapter(place)
    checks = check_adapter(adapter, fingerprint(resolve_model(model)) if model else None)
    return VerifiedAdapter(adapter.path, all(check.ok for check in checks), checks)


def merge(
    place: Path,
    out: Path,
    model: str | None = None,
    dtype: str | None = None,
    force: bool = False,
    say: Callable[[str], None] | None = None,
) -> MergedAdapter:
    """Write the base with the adapter in it as a new model folder.

    The base is `model`, else the one that the adapter names. What rounding cost is measured before the folder appears.

    Raises:
        AdapterError: the adapter is damaged; the base is another one, or the loss above the limit, and `force` does not insist.
    """
    adapter = open_adapter(place)
    check_known(adapter)
    base = resolve_model(model or name_of_base(adapter))
    notes = [check_base(adapter, fingerprint(base), force), _quant_note(adapter)]
    check_bytes(adapter)
    from ctxtune.adapter.merge import merge as write_merged
    from ctxtune.commands.merge_loss import measured_kl

    with heartbeat(say, f"writing {out}, and comparing it with the adapter on the probe"):
        merged = write_merged(base, adapter, out, dtype, force, measured_kl)
    return MergedAdapter(merged, "; ".join(note for note in notes if note) or None)


def _quant_note(adapter: AdapterFile) -> str | None:
    """Rounding of the base is not undone by merging: scores were measured with it, and the merged model is without."""
    quant = adapter.manifest.quant if adapter.manifest else "none"
    if quant == "none":
        return None
    return (
        f"the adapter was trained and scored on the base in {quant}, and is written into the float base: score it again"
    )
