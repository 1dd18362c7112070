"""Masks as objects: what a part chooses, and what two masks have in common, against sets of entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctxtune.backend.mask import Part, difference, intersection, numel, side_of, union, units

if TYPE_CHECKING:
    from ctxtune.backend.mask import Kind, Mask

SIZE = (12, 20)
KINDS: tuple[Kind, ...] = ("rows", "columns", "blocks", "entries", "whole")


def drawn(kind: Kind, seed: int, size: tuple[int, ...] = SIZE) -> Part:
    chance = np.random.default_rng(seed)
    if kind == "whole":
        return Part(kind, size, np.arange(0))
    count = units(kind, size)
    return Part(kind, size, np.sort(chance.choice(count, max(2, count // 3), replace=False)))


def chosen(mask: Mask) -> set[tuple[str, int]]:
    return {(name, int(place)) for name, part in mask.items() for place in part.entries()}


def by_hand(part: Part) -> list[tuple[int, int]]:
    """Rows and columns of the chosen numbers, in the order that the docstring tells."""
    rows, columns = part.size
    if part.kind == "rows":
        return [(i, j) for i in part.index for j in range(columns)]
    if part.kind == "columns":
        return [(i, j) for j in part.index for i in range(rows)]
    if part.kind == "blocks":
        side = part.side
        corners = [divmod(int(number), columns // side) for number in part.index]
        return [
            (top * side + i, left * side + j) for top, left in corners for i in range(side) for j in range(side)
        ]  # fmt: skip
    return [divmod(int(place), columns) for place in (range(rows * columns) if part.kind == "whole" else part.index)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_entries_of_a_part(kind: Kind) -> None:
    part = drawn(kind, 0)
    table = np.arange(np.prod(SIZE)).reshape(SIZE)
    assert part.entries().tolist() == [table[place] for place in by_hand(part)]
    assert part.numel == len(part.entries()) == np.prod(part.shape)


def test_sides_of_blocks() -> None:
    assert side_of((576, 1536)) == 32
    assert side_of((12, 20)) == 4
    assert side_of((7, 32)) == 1


@pytest.mark.parametrize("other", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_operations_are_those_of_sets(kind: Kind, other: Kind) -> None:
    one: Mask = {"a": drawn(kind, 1), "b": drawn("rows", 2), "only one": drawn("entries", 3, (5,))}
    two: Mask = {"a": drawn(other, 4), "b": drawn("rows", 5), "only two": drawn("blocks", 6)}
    assert chosen(union(one, two)) == chosen(one) | chosen(two)
    assert chosen(intersection(one, two)) == chosen(one) & chosen(two)
    assert chosen(difference(one, two)) == chosen(one) - chosen(two)
    assert numel(union(one, two)) == len(chosen(one) | chosen(two))


def test_what_stays_rows_stays_rows() -> None:
    one, two = {"a": drawn("rows", 1)}, {"a": drawn("rows", 2)}
    assert union(one, two)["a"].kind == "rows"
    assert difference(one, one) == {}
    whole = {"a": drawn("whole", 1)}
    assert {union(*pair)["a"].kind for pair in ((one, whole), (whole, one), (whole, whole))} == {"whole"}


def test_places_that_would_fill_the_memory_are_not_written_out() -> None:
    """A file of a few bytes can tell of rows and columns of a tensor that no machine holds."""
    size = (2**24, 2**23)
    one, two = ({"a": Part(kind, size, np.arange(2000))} for kind in ("rows", "columns"))
    for rule in (union, intersection, difference):
        with pytest.raises(ValueError, match="too many"):
            rule(one, two)
    assert numel(union(one, one)) == 2000 * 2**23


def test_masks_of_different_models() -> None:
    with pytest.raises(ValueError, match=r"a is \[12, 20\] in one mask and \[20, 12\] in the other"):
        union({"a": drawn("rows", 1)}, {"a": drawn("rows", 1, SIZE[::-1])})
