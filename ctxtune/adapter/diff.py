"""Where two adapters differ: what one has and the other has not, and how far apart the numbers of both are; no torch.

Compared is what an adapter does: the changes D of a mask, 0 where nothing is chosen; of LoRA the product s B A, for factors can
differ where it does not; else the stored tensors. With numbers a of one and b of the other,

    cosine   a b / (||a|| ||b||)        relative   ||a - b|| / ||a||        largest   max |a - b|

The products are compared in an orthonormal basis of the columns of both B and the rows of both A, where they are as small as
their ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.adapter import lora
from ctxtune.adapter.bits import CONTAINER as BITS
from ctxtune.adapter.bits import moved_of
from ctxtune.adapter.extent import places_of
from ctxtune.adapter.mask import CONTAINER as MASK
from ctxtune.adapter.mask import DELTA, read_changes
from ctxtune.adapter.numbers import FLOATS, read_floats
from ctxtune.adapter.overlap import Overlap, overlaps
from ctxtune.adapter.read import check_known
from ctxtune.adapter.shira import CONTAINER as SHIRA
from ctxtune.backend.tensors import ITEM_BYTES, TensorInfo, mapped
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.mask import Mask

    Numbers = NDArray[np.float64]

_CHUNK = 1 << 20  # numbers that are compared at once


@dataclass
class Distance:
    """Sums over the numbers a and b of one part of two adapters; `largest` is None where none were compared one by one."""

    name: str
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    apart: float = 0.0
    """sum of (a - b)^2"""
    largest: float | None = None
    overlap: Overlap | None = None
    """of two masks"""

    @property
    def cosine(self) -> float | None:
        """None where one of the two is 0."""
        return self.ab / math.sqrt(self.aa * self.bb) if self.aa and self.bb else None

    @property
    def relative(self) -> float | None:
        """None where the first is 0, and the other is not."""
        return math.sqrt(self.apart / self.aa) if self.aa else None if self.apart else 0.0

    def add(self, a: Numbers, b: Numbers) -> None:
        """Numbers that stand in the same places."""
        if len(a):
            apart = a - b
            self.aa, self.bb, self.ab = self.aa + float(a @ a), self.bb + float(b @ b), self.ab + float(a @ b)
            self.apart += float(apart @ apart)
            self.largest = _larger(self.largest, float(np.abs(apart).max()))

    def join(self, other: Distance) -> None:
        """Those of another part as well."""
        self.aa, self.bb, self.ab = self.aa + other.aa, self.bb + other.bb, self.ab + other.ab
        self.apart += other.apart
        if other.largest is not None:
            self.largest = _larger(self.largest, other.largest)


def _larger(one: float | None, other: float) -> float:
    """The larger of two; of what is not a number that, which Python's own `max` would pass over."""
    return other if one is None or math.isnan(other) or other > one else one


@dataclass
class Difference:
    """Two adapters of one container. Parts are layers of masks, modules of LoRA, else tensors, by their names in the files."""

    container: str
    only_one: list[str]
    only_other: list[str]
    other_shape: list[str] = field(default_factory=list)
    """what both have, in shapes that cannot be compared"""
    parts: list[Distance] = field(default_factory=list)
    compared: bool = True
    """whether there are numbers on both sides: a mask alone has none"""

    @property
    def all(self) -> Distance:
        """Of all parts together."""
        found = Distance("all")
        for part in self.parts:
            found.join(part)
        masks = [part.overlap for part in self.parts if part.overlap is not None]
        if masks:
            found.overlap = Overlap(None, sum(one.shared for one in masks), sum(one.either for one in masks))
        return found


def difference(one: AdapterFile, other: AdapterFile) -> Difference:
    """Compare two adapters of one kind.

    Raises:
        AdapterError: they are of two kinds, or of one that is not compared; or one of them contradicts itself.
    """
    for adapter in (one, other):
        check_known(adapter)
    if one.container != other.container:
        raise AdapterError(
            f"{one.path} is {one.container} and {other.path} is {other.container}: they hold other things",
            "`ctxtune adapter export --to lora` makes one kind of both",
        )
    if one.container in (MASK, BITS):
        return _masks(one, other)
    if one.container == "LORA":
        return _low_ranks(one, other)
    if one.container == SHIRA:
        raise AdapterError(f"{one.path} is SHIRA, which is not compared", "compare the adapters that were exported")
    return _tensors(one, other)


def _sides(one: Mapping[str, object], other: Mapping[str, object]) -> tuple[list[str], list[str]]:
    return [name for name in one if name not in other], [name for name in other if name not in one]


def _masks(one: AdapterFile, other: AdapterFile) -> Difference:
    masks = [moved_of(adapter) for adapter in (one, other)]
    found = Difference(one.container, *_sides(*masks))
    parts = {overlap.layer: Distance(_layer(overlap.layer), overlap=overlap) for overlap in overlaps(one, other)}
    found.parts = list(parts.values())
    found.compared = all(
        name + DELTA in adapter.header.tensors
        for adapter, mask in zip((one, other), masks, strict=True)
        for name in mask
    )
    if found.compared:
        changes = [
            read_changes(adapter.path, adapter.header, mask) for adapter, mask in zip((one, other), masks, strict=True)
        ]
        for name, (layer, _) in places_of(dict.fromkeys([*masks[0], *masks[1]])).items():
            sides = (_placed(mask, change, name) for mask, change in zip(masks, changes, strict=True))
            parts[layer].add(*_aligned(*sides))
    return found


def _layer(layer: int | None) -> str:
    return "outside" if layer is None else f"layer {layer}"


def _placed(mask: Mask, changes: Mapping[str, Numbers], name: str) -> tuple[NDArray[np.int64], Numbers]:
    """Places in the flattened tensor and the changes there; none where nothing is chosen."""
    if name not in mask:
        return np.zeros(0, np.int64), np.zeros(0)
    return mask[name].entries(), changes[name].reshape(-1)


def _aligned(
    one: tuple[NDArray[np.int64], Numbers], other: tuple[NDArray[np.int64], Numbers]
) -> tuple[Numbers, Numbers]:
    """Both changes at all places that either has."""
    places = np.union1d(one[0], other[0])
    a, b = np.zeros(len(places)), np.zeros(len(places))
    a[np.searchsorted(places, one[0])] = one[1]
    b[np.searchsorted(places, other[0])] = other[1]
    return a, b


def _low_ranks(one: AdapterFile, other: AdapterFile) -> Difference:
    (pairs, whole), (others, beside) = lora.parts(one), lora.parts(other)
    found = _tensors(one, other, set(whole), set(beside))
    mine, theirs = ({pair.module: pair for pair in some} for some in (pairs, others))
    for names, alone in zip((found.only_one, found.only_other), _sides(mine, theirs), strict=True):
        names += alone
    with mapped(one.path) as view, mapped(other.path) as there:
        for module in (module for module in mine if module in theirs):
            b, a = (_floats(one, view, name) for name in (mine[module].b, mine[module].a))
            b2, a2 = (_floats(other, there, name) for name in (theirs[module].b, theirs[module].a))
            if len(b) != len(b2) or a.shape[1] != a2.shape[1]:
                found.other_shape.append(module)
                continue
            _, down = np.linalg.qr(np.hstack([mine[module].scale * b, theirs[module].scale * b2]))
            _, across = np.linalg.qr(np.vstack([a, a2]).T)
            r = len(a)
            part = Distance(module)
            part.add((down[:, :r] @ across[:, :r].T).reshape(-1), (down[:, r:] @ across[:, r:].T).reshape(-1))
            part.largest = None  # in a basis that is not the tensor's own
            found.parts.append(part)
    return found


def _tensors(
    one: AdapterFile, other: AdapterFile, mine: set[str] | None = None, theirs: set[str] | None = None
) -> Difference:
    """All tensors of two files, or those of each that are named."""
    here = {name: info for name, info in one.header.tensors.items() if mine is None or name in mine}
    there = {name: info for name, info in other.header.tensors.items() if theirs is None or name in theirs}
    found = Difference(one.container, *_sides(here, there))
    with mapped(one.path) as view, mapped(other.path) as beside:
        for name, info in here.items():
            if name not in there:
                continue
            if info.shape != there[name].shape:
                found.other_shape.append(name)
                continue
            part = Distance(name)
            for a, b in zip(_chunks(one, view, name), _chunks(other, beside, name), strict=True):
                part.add(a, b)
            found.parts.append(part)
    return found


def _chunks(adapter: AdapterFile, view: memoryview, name: str) -> Iterator[Numbers]:
    """The numbers of a tensor one after another."""
    info = _float_info(adapter, name)
    size = ITEM_BYTES[info.dtype]
    for begin in range(0, info.numel, _CHUNK):
        end = min(begin + _CHUNK, info.numel)
        yield read_floats(
            view, TensorInfo(info.dtype, (end - begin,), info.begin + begin * size, info.begin + end * size)
        )


def _floats(adapter: AdapterFile, view: memoryview, name: str) -> Numbers:
    return read_floats(view, _float_info(adapter, name))


def _float_info(adapter: AdapterFile, name: str) -> TensorInfo:
    info = adapter.header.tensors[name]
    if info.dtype not in FLOATS:
        raise AdapterError(f"{adapter.path}: tensor {name!r} is of type {info.dtype}, and only floats are compared")
    return info
