"""How far a mask adapter moves its base, and how like another it is: tables for people, a line a layer for pipes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ctxtune.adapter.extent import Extent
    from ctxtune.adapter.overlap import Overlap

SHARE = "share that moves, %"


def facts(extent: Extent) -> dict[str, Any]:
    """One cell as plain numbers."""
    return {
        "layer": extent.layer, "kind": extent.kind, "moved": extent.moved, "numbers": extent.numbers,
        "share": extent.share, "rms": _finite(extent.rms), "relative": _finite(extent.relative),
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def tables(extents: Sequence[Extent]) -> Iterator[Any]:
    """The share of each kind that moves in each layer, and how far; narrow enough for 80 columns."""
    from ctxtune.cli import console

    title, size = _size(extents)
    cells: list[tuple[str, Callable[[Extent], str]]] = [(SHARE, _percent)]
    if title:
        cells.append((title, size))
    inside = [one for one in extents if one.layer is not None]
    kinds = list(dict.fromkeys(one.kind for one in inside))
    for title, cell in cells:
        if inside:
            table = {(one.layer, one.kind): cell(one) for one in inside}
            layers = dict.fromkeys(one.layer for one in inside)
            rows = [[str(layer), *(table.get((layer, kind), "") for kind in kinds)] for layer in layers]
            yield console.grid(title, ["layer", *kinds], rows)
        outside = [[one.kind, cell(one)] for one in extents if one.layer is None]
        if outside:
            yield console.grid("" if inside else title, ["outside", ""], outside)


def lines(extents: Sequence[Extent]) -> Iterator[str]:
    """The same for a pipe."""
    title, size = _size(extents)
    if extents:
        yield f"moved: {SHARE}{f'; {title}' if title else ''}"
    for layer in dict.fromkeys(one.layer for one in extents):
        told = [f"{one.kind} {_percent(one)} {size(one)}".rstrip() for one in extents if one.layer == layer]
        yield f"{'outside' if layer is None else f'layer {layer}'}: {', '.join(told)}"


def _percent(extent: Extent) -> str:
    percent = 100 * extent.share
    return f"{percent:.1f}" if percent >= 10 else f"{percent:.2f}" if percent >= 0.1 else f"{percent:.2g}"


def _size(extents: Sequence[Extent]) -> tuple[str, Callable[[Extent], str]]:
    """What sizes are, and how one is written: in a power of ten that all share, so that a cell is four letters wide."""
    relative = all(one.relative is not None for one in extents)

    def size(one: Extent) -> float | None:
        return one.relative if relative else one.rms

    known = [value for value in map(size, extents) if value is not None]
    if not known:
        return "", lambda one: ""
    largest = max(filter(math.isfinite, known), default=0.0)
    unit = 10.0 ** math.floor(math.log10(largest)) if largest else 1.0
    name = "||D|| / ||W|| of the numbers that move" if relative else "root mean square of the changes D"
    return f"{name}, in {unit:.0e}", lambda one: f"{(size(one) or 0.0) / unit:.2f}"


def overlap_facts(overlaps: Sequence[Overlap]) -> list[dict[str, Any]]:
    """What two masks share in each layer, as plain numbers."""
    return [
        {"layer": one.layer, "shared": one.shared, "either": one.either, "jaccard": one.jaccard} for one in overlaps
    ]


def overlap_tables(overlaps: Sequence[Overlap] | None, other: str) -> Iterator[Any]:
    """A row a layer; nothing where no other mask was named."""
    from ctxtune.cli import console

    if overlaps is not None:
        rows = [[name, f"{one.shared:,}", f"{one.either:,}", f"{one.jaccard:.3f}"] for name, one in _named(overlaps)]
        yield console.grid(f"numbers that {other} chooses as well", ["layer", "both", "either", "Jaccard"], rows)


def overlap_lines(overlaps: Sequence[Overlap] | None) -> Iterator[str]:
    """The same for a pipe."""
    for name, one in _named(overlaps) if overlaps is not None else ():
        yield f"overlap, {name}: {one.shared:,} of {one.either:,}, Jaccard {one.jaccard:.3f}"


def _named(overlaps: Sequence[Overlap]) -> Iterator[tuple[str, Overlap]]:
    """All layers together, then each by its name."""
    from ctxtune.adapter.overlap import Overlap

    yield "all", Overlap(None, sum(one.shared for one in overlaps), sum(one.either for one in overlaps))
    for one in overlaps:
        yield "outside" if one.layer is None else f"layer {one.layer}", one
