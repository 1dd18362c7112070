"""Requests that begin alike, as one tree of tokens: what they share stands there, and is run, once.

The choices of a row share its prompt: instead of k rows `prompt | choice` there is one, `prompt | choice 1 | choice 2 ...`, in
which each token sees the tokens that it stands behind and no others (SpecInfer, Miao et al. 2024, verifies drafts that way).
Shared is what is equal token by token, so that nothing is assumed of where a tokenizer cuts a text.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.data.encode import Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Places = tuple["Sequence[int]", tuple[int, ...]]
"""where among a tree's rows those of a choice are, and the tokens that they predict"""


def grow(requests: Sequence[Encoded]) -> tuple[Encoded, list[list[int]]]:
    """The tree of a few requests, and for each of them where among the tree's rows its own are.

    The tree asks for nothing itself: it has no labels. Its tokens stand in preorder, each behind what it continues.
    """
    ids: list[int] = []
    parents: list[int] = []
    paths: dict[tuple[int, ...], list[int]] = {}
    last, path = (), []  # type: tuple[int, ...], list[int]
    for told in sorted({one.ids for one in requests}):  # sorted: what begins alike stands together
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(last, told, strict=False)))
        new = range(len(ids), len(ids) + len(told) - shared)
        path = [*path[:shared], *new]
        ids += told[shared:]
        parents += [path[depth - 1] if depth else -1 for depth in range(shared, len(told))]
        last, paths[told] = told, path
    asked = [[paths[one.ids][row] for row in one.rows] for one in requests]
    rows = sorted({row for some in asked for row in some})
    place = {row: at for at, row in enumerate(rows)}
    is_line = parents == list(range(-1, len(ids) - 1))
    tree = Encoded(tuple(ids), tuple(rows), (), () if is_line else tuple(parents))
    return tree, [[place[row] for row in some] for some in asked]


def lines(examples: Sequence[Encoded]) -> tuple[list[Encoded], list[int]]:
    """Texts without branches: of a tree those that end at its first and at its last answer row.

    And which of all answer rows, one example's behind the other's, are theirs.
    """
    found: list[Encoded] = []
    rows: list[int] = []
    begin = 0
    for one in examples:
        if not one.parents:
            found.append(one)
            rows += range(begin, begin + len(one.rows))
        else:
            for place in sorted({0, len(one.rows) - 1}):
                path = _path(one, one.rows[place])
                found.append(Encoded(path, (len(path) - 1,), ()))
                rows.append(begin + place)
        begin += len(one.rows)
    return found, rows


def _path(tree: Encoded, at: int) -> tuple[int, ...]:
    """A token of a tree behind all that it stands behind."""
    path = []
    while at >= 0:
        path.append(tree.ids[at])
        at = tree.parents[at]
    return tuple(reversed(path))


def shared(texts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all texts begin with."""
    first, last = min(texts), max(texts)  # what these share, all between them do
    return first[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))]


def depths_and_ends(one: Encoded) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each token the number of tokens that it stands behind, and where those end that stand behind it, (T,) each.

    In preorder token i sees token j if and only if j <= i < ends[j].
    """
    num = len(one.ids)
    if not one.parents:
        return np.arange(num), np.full(num, num)
    depths, ends = np.zeros(num, np.int64), np.arange(1, num + 1)
    for at, parent in enumerate(one.parents):
        depths[at] = depths[parent] + 1 if parent >= 0 else 0
    for at in range(num - 1, -1, -1):
        parent = one.parents[at]
        if parent >= 0:
            ends[parent] = max(ends[parent], ends[at])
    return depths, ends
