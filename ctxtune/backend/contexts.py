"""What stands before the virtual tokens of a suffix never changes: its keys and values, read once for each example.

Causal layers let nothing that follows change them. Steps then run the virtual tokens and the answer alone, P + A - 1 tokens
instead of X + P + A - 1, forward and backward. A token is one row of the store, k_0 v_0 k_1 v_1 ... of all layers, as in
prefix.py: 46 kB of SmolLM2-135M in float32.

Shapes: B examples, X the most tokens of their contexts, H key heads and d numbers each of a layer, W = sum of H d of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ctxtune.backend.cache import keep_states
from ctxtune.backend.prefix import Prefix, as_rows, from_rows, read_through, shapes_of
from ctxtune.data.batch import micro_batches, padded
from ctxtune.data.encode import Encoded
from ctxtune.data.pack import alone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ctxtune.backend.cache import States
    from ctxtune.backend.device import Device
    from ctxtune.backend.trunk import Trunk


@dataclass(frozen=True)
class Contexts:
    """The kept contexts of examples; `tails` are what is left of these to be run. `shapes` as `prefix.shapes_of`."""

    states: States
    tails: Sequence[Encoded]
    lengths: Sequence[int]
    shapes: Sequence[tuple[int, int, int]]
    device: Device

    def before(self, part: Sequence[int]) -> Prefix:
        """Keys and values (B, H, X, d) of the contexts of a part, padded at the right."""
        rows = self.states.batch(part, alone([self.lengths[i] for i in part]), self.device.name)
        return Prefix((), from_rows(rows, self.shapes, self.device), self.states.place)


def context_lengths(examples: Sequence[Encoded], suffix: int) -> list[int]:
    """How many tokens stand before the virtual ones of each example."""
    return [one.rows[0] + 1 - suffix for one in examples]


def keep_contexts(
    trunk: Trunk, examples: Sequence[Encoded], suffix: int, where: str, key: Callable[[Sequence[Encoded]], str]
) -> Contexts | None:
    """Read all that stands before the `suffix` virtual tokens of examples, or take what an earlier run has kept of it.

    `key` names the store of some texts. None where `where` is off, or neither disk nor memory has room.
    """
    lengths = context_lengths(examples, suffix)
    if where == "off" or min(lengths) < 1:
        return None
    texts = [Encoded(one.ids[:length], (length - 1,), ()) for one, length in zip(examples, lengths, strict=True)]

    def fill(data: Tensor, offsets: Sequence[int]) -> None:
        order = sorted(range(len(texts)), key=lambda i: (-lengths[i], i))
        for part in micro_batches(order, lengths, rows=None, max_tokens=trunk.base.device.stride):
            # Padded at the right: no token of a causal model sees a pad.
            ids = torch.from_numpy(padded([texts[i] for i in part], 0).ids).to(trunk.base.device.name)
            with torch.no_grad():
                rows = as_rows(read_through(trunk, input_ids=ids)).cpu()
            for b, i in enumerate(part):
                data[offsets[i] : offsets[i + 1]] = rows[b, : lengths[i]]

    with trunk.closed(), torch.no_grad():
        shapes = shapes_of(trunk)
    width = sum(heads * (k + v) for heads, k, v in shapes)
    states = keep_states(key(texts), lengths, width, where, fill)
    if states is None:
        return None
    tails = [_tail(*pair) for pair in zip(examples, lengths, strict=True)]
    return Contexts(states, tails, lengths, shapes, trunk.base.device)


def _tail(one: Encoded, length: int) -> Encoded:
    """What stands behind the first tokens of an example, which may be a tree there."""
    parents = tuple(max(parent - length, -1) for parent in one.parents[length:])
    return Encoded(one.ids[length:], tuple(row - length for row in one.rows), one.labels, parents)
