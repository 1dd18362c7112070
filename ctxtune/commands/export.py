"""Write an adapter in the form of another program: PEFT's own, low ranks, or a model with words of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxtune.adapter.bits import CONTAINER as BITS
from ctxtune.adapter.export import export_peft
from ctxtune.adapter.mask import CONTAINER as MASK
from ctxtune.adapter.read import check_base, check_known, name_of_base, open_adapter
from ctxtune.adapter.verify import verify as check_adapter
from ctxtune.backend.fingerprint import fingerprint
from ctxtune.backend.folder import resolve_model
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.errors import AdapterError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.adapter.lowrank import LowRanked
    from ctxtune.adapter.read import AdapterFile
    from ctxtune.adapter.sparse import Sparse
    from ctxtune.commands.bake import Baked

FORMS = ("peft", "lora", "model")


@dataclass(frozen=True)
class ExportedAdapter:
    """What `adapter export` wrote; one of the others says how it went, and `note` what a user should be told."""

    folder: Path
    num_bytes: int
    baked: Baked | None = None
    sparse: Sparse | None = None
    low: LowRanked | None = None
    note: str | None = None


def export(
    place: Path, to: str, out: Path, model: str | None = None, dtype: str | None = None, force: bool = False,
    say: Callable[[str], None] | None = None, rank: int | None = None,
) -> ExportedAdapter:  # fmt: skip
    """Write the adapter in the form `to`: for PEFT (peft), as LoRA of a `rank` (lora), or as a model with words of its own.

    The base is needed for all but adapters that PEFT takes as they are: `model`, else the one that the adapter names.

    Raises:
        AdapterError: the adapter is damaged, or has no such form; the base is another one, and `force` does not insist.
        RecipeError: an option has nothing to do there.
    """
    if to not in FORMS:
        raise RecipeError(f"--to: an adapter cannot be exported to {to!r}", f"forms that work: {', '.join(FORMS)}")
    adapter = open_adapter(place)
    if adapter.container == BITS and to == "peft":
        raise AdapterError(
            f"{adapter.path}: PEFT has no type for weights that are switched off",
            "`ctxtune adapter merge` writes them into the base, --to lora holds what that changes",
        )
    as_it_is = to == "peft" and adapter.container != MASK
    _check_options(to, as_it_is, model, dtype, rank)
    for check in check_adapter(adapter):
        if not check.ok:
            raise AdapterError(f"{adapter.path} is not exported: {check.name}: {check.detail}")
    if as_it_is:
        return ExportedAdapter(out, export_peft(adapter, out))
    if to == "model":
        from ctxtune.commands.bake import check_bakeable

        check_bakeable(adapter)
    check_known(adapter)
    base = resolve_model(model or name_of_base(adapter))
    note = check_base(adapter, fingerprint(base), force)
    if to == "model":
        return _baked(adapter, base, out, dtype, say, note)
    from ctxtune.adapter.lowrank import export_lora
    from ctxtune.adapter.sparse import export_mask
    from ctxtune.adapter.weights import open_weights

    weights = open_weights(base, adapter.classes)
    if to == "peft":
        sparse = export_mask(adapter, weights, out)
        return ExportedAdapter(out, sparse.num_bytes, sparse=sparse, note=note)
    with heartbeat(say, f"writing {out}"):
        low = export_lora(adapter, weights, out, rank)
    return ExportedAdapter(out, low.num_bytes, low=low, note=note)


def _check_options(to: str, as_it_is: bool, model: str | None, dtype: str | None, rank: int | None) -> None:
    if dtype and to != "model":
        raise RecipeError("--dtype is for --to model", "leave it out")
    if rank is not None and to != "lora":
        raise RecipeError("--rank is for --to lora", "leave it out")
    if model and as_it_is:
        raise RecipeError("--model: PEFT takes this adapter as it is, and the base has no part in it", "leave it out")


def _baked(
    adapter: AdapterFile, base: Path, out: Path, dtype: str | None, say: Callable[[str], None] | None, note: str | None
) -> ExportedAdapter:
    from ctxtune.commands.bake import bake

    baked = bake(adapter, base, out, dtype, say)
    return ExportedAdapter(out, sum(file.stat().st_size for file in out.iterdir()), baked, note=note)
