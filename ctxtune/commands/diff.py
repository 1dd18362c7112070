"""Where two adapters differ: what they say of themselves, what they hold, and how far their numbers are apart. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.diff import difference
from ctxtune.adapter.read import check_bytes, open_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from ctxtune.adapter.diff import Difference
    from ctxtune.adapter.read import AdapterFile


@dataclass(frozen=True)
class ComparedAdapters:
    """Two files, what is told of them where it is not the same, and where their tensors differ."""

    one: Path
    other: Path
    told: dict[str, tuple[Any, Any]]
    difference: Difference


def diff(one: Path, other: Path) -> ComparedAdapters:
    """Compare two adapters.

    Raises:
        AdapterError: one cannot be read, or is damaged, or they are of two kinds.
    """
    adapters = open_adapter(one), open_adapter(other)
    for adapter in adapters:
        check_bytes(adapter)
    found = difference(*adapters)
    mine, theirs = map(_told, adapters)
    differing = {key: (mine.get(key), theirs.get(key)) for key in mine | theirs if mine.get(key) != theirs.get(key)}
    return ComparedAdapters(adapters[0].path, adapters[1].path, differing, found)


def _told(adapter: AdapterFile) -> dict[str, Any]:
    """What an adapter says of itself, but for what is of one run alone."""
    manifest = adapter.manifest
    if manifest is None:
        return {"manifest": "none"}
    return {
        "method": manifest.method,
        "base": manifest.base.fingerprint,
        "quant": manifest.quant,
        "seed": manifest.seed,
        "trained numbers": manifest.trainable,
        **{f"settings: {key}": value for key, value in manifest.settings.items()},
        **{f"scores: {key}": value for key, value in manifest.scores.after.items()},
        **{f"forgetting: {key}": value for key, value in manifest.forgetting.after.items()},
    }
