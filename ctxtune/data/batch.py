"""The order of examples, and examples as padded arrays.

B  rows of tokens, one an example or fewer      T  tokens of the longest row      N  supervised tokens of all
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.data.branch import depths_and_ends
from ctxtune.data.pack import alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from ctxtune.data.encode import Encoded
    from ctxtune.data.pack import Place


@dataclass(frozen=True)
class Padded:
    """`ids` and `mask` (B, T), padded at the right; `label[n]` is predicted at `ids[row[n], position[n]]`, n < N.

    Example e begins at `places[e]`. `order` (B, T) counts the tokens of each example from 0 on, along the branch where it is
    a tree; `end` (B, T) is the column at which those end that stand behind a token. A pad is an example of its own.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    row: NDArray[np.int64]
    position: NDArray[np.int64]
    label: NDArray[np.int64]
    order: NDArray[np.int64]
    end: NDArray[np.int64]
    places: Sequence[Place]
    branched: bool

    @property
    def shared(self) -> bool:
        """Whether a row holds tokens that do not see all that stands before them."""
        return self.branched or len(self.ids) < len(self.places)


def length_buckets(
    lengths: Sequence[int],
    batch: int,
    seed: int,
    epoch: int,
    window: int = 16,
    examples: Sequence[int] | None = None,
) -> list[list[int]]:
    """Every example once, in batches of like lengths, in an order that depends on seed and epoch alone.

    Where some examples stand in an epoch twice or not at all, `examples` names those that do.

    The examples are shuffled, sorted by length inside windows of `window * batch`, cut, and the batches shuffled:
    little padding, and yet every epoch puts other examples together. Measured with SmolLM2's tokenizer on five sets in
    batches of 8, 16 and 32 (`tests/benchmarks/padding.py`): 1.02 to 1.19 tokens are run for each that counts, 1.5 to 2.9
    without the sorting, 1.01 to 1.04 where rows are packed as well (pack.py)."""
    random = Random(f"order {seed} {epoch}")  # a text is hashed the same way by every Python, an object is not
    order = list(range(len(lengths)) if examples is None else examples)
    random.shuffle(order)
    span = window * batch
    for start in range(0, len(order), span):
        order[start : start + span] = sorted(order[start : start + span], key=lengths.__getitem__)
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    random.shuffle(batches)
    return batches


def micro_batches(
    indices: Iterable[int], lengths: Sequence[int] | NDArray[np.int32], *, rows: int | None, max_tokens: int
) -> list[list[int]]:
    """One batch in pieces that fit into memory, the longest examples first, so that what does not fit fails at once.

    A piece has at most `rows` examples, or, without that, at most `max_tokens` tokens with its padding; an example
    longer than that stands alone. `lengths` is indexed by the members of `indices`."""
    pieces: list[list[int]] = []
    for index in sorted(indices, key=lambda index: (-lengths[index], index)):
        most = rows if rows is not None or not pieces else max_tokens // max(1, lengths[pieces[-1][0]])
        if most is not None and pieces and len(pieces[-1]) < most:
            pieces[-1].append(index)
        else:
            pieces.append([index])
    return pieces


def padded(encoded: Sequence[Encoded], pad_id: int, placed: Callable[[Sequence[int]], list[Place]] = alone) -> Padded:
    """The examples as arrays, in rows of their own or `placed` (pack.py), and where supervised tokens are predicted."""
    lengths = [len(one.ids) for one in encoded]
    places = placed(lengths)
    shape = (
        max((row + 1 for row, _ in places), default=0),
        max((first + length for (_, first), length in zip(places, lengths, strict=True)), default=0),
    )
    ids, mask, order = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    end = np.broadcast_to(np.arange(1, shape[1] + 1), shape).copy()
    for one, (row, first) in zip(encoded, places, strict=True):
        span = row, slice(first, first + len(one.ids))
        depths, ends = depths_and_ends(one)
        ids[span], mask[span], order[span], end[span] = one.ids, 1, depths, first + ends
    return Padded(
        ids,
        mask,
        np.repeat(np.array([row for row, _ in places], dtype=np.int64), [len(one.rows) for one in encoded]),
        np.array(
            [first + t for one, (_, first) in zip(encoded, places, strict=True) for t in one.rows], dtype=np.int64
        ),
        np.array([label for one in encoded for label in one.labels], dtype=np.int64),
        order,
        end,
        places,
        any(one.parents for one in encoded),
    )
