"""Trees of requests: what each branch says when it is read along its parents, and what may see what."""

from __future__ import annotations

from random import Random

import pytest

from ctxtune.data.branch import depths_and_ends, grow, lines
from ctxtune.data.encode import Encoded

A = Encoded((1, 2, 3), (1, 2), (3, 4))
B = Encoded((1, 2, 5, 6), (1, 2, 3), (5, 6, 7))
C = Encoded((1, 2), (1,), (9,))


def read(tree: Encoded, row: int) -> tuple[int, ...]:
    """The tokens up to a row, along its branch."""
    parents = tree.parents or range(-1, len(tree.ids) - 1)
    said = []
    while row >= 0:
        said.append(tree.ids[row])
        row = parents[row]
    return tuple(reversed(said))


def test_a_tree_by_hand() -> None:
    tree, rows = grow([A, B, C])
    assert tree == Encoded((1, 2, 3, 5, 6), (1, 2, 3, 4), (), (-1, 0, 1, 1, 3))
    assert rows == [[0, 1], [0, 2, 3], [0]]
    depths, ends = depths_and_ends(tree)
    assert depths.tolist() == [0, 1, 2, 2, 3]
    assert ends.tolist() == [5, 5, 3, 5, 5]


def test_one_request_is_a_line() -> None:
    tree, rows = grow([A, A])
    assert (tree.ids, tree.rows, tree.parents, rows) == (A.ids, A.rows, (), [[0, 1], [0, 1]])
    depths, ends = depths_and_ends(tree)
    assert (depths.tolist(), ends.tolist()) == ([0, 1, 2], [3, 3, 3])


def test_a_request_that_begins_otherwise_begins_a_line_of_its_own() -> None:
    tree, _ = grow([Encoded((7, 8), (1,), (1,)), A])
    assert tree.parents == (-1, 0, 1, -1, 3)
    assert depths_and_ends(tree)[1].tolist() == [3, 3, 3, 5, 5]


@pytest.mark.parametrize("seed", range(20))
def test_every_request_reads_its_own_tokens_and_sees_no_others(seed: int) -> None:
    random = Random(seed)
    requests = []
    for _ in range(random.randint(1, 9)):
        ids = tuple(random.randint(0, 2) for _ in range(random.randint(1, 7)))
        requests.append(Encoded(ids, tuple(sorted(random.sample(range(len(ids)), random.randint(1, len(ids))))), ()))
    tree, rows = grow(requests)
    assert len(tree.ids) == len({one.ids[: end + 1] for one in requests for end in range(len(one.ids))})
    for one, places in zip(requests, rows, strict=True):
        assert [read(tree, tree.rows[place]) for place in places] == [one.ids[: row + 1] for row in one.rows]
    depths, ends = depths_and_ends(tree)
    for i in range(len(tree.ids)):
        seen = tuple(tree.ids[j] for j in range(i + 1) if i < ends[j])
        assert (seen, depths[i]) == (read(tree, i), len(seen) - 1)


def test_the_branches_of_some_trees_as_lines() -> None:
    """Of a tree those that end at its first and last row, a line as it is; and which of all rows theirs are."""
    tree, _ = grow([A, B, C])
    told, rows = lines([A, tree, C])
    assert told == [A, Encoded((1, 2), (1,), ()), Encoded((1, 2, 5, 6), (3,), ()), C]
    assert rows == [0, 1, 2, 5, 6]
    assert [read(tree, tree.rows[place]) for place in (0, 3)] == [one.ids for one in told[1:3]]
