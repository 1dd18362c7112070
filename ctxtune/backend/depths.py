"""What every depth of a model says of some examples, from one plain forward pass over each.

Shapes: L blocks, n examples, T tokens, D width. Depth l is what enters block l; depth L is what leaves the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ctxtune.backend.cache import States
from ctxtune.backend.device import available_memory
from ctxtune.backend.feed import check_kept, is_exact
from ctxtune.data.batch import micro_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ctxtune.backend.feed import Feed

# Tokens of one forward pass: all depths of them are in memory at once.
_TOKENS = 512


@dataclass(frozen=True)
class Depths:
    """`answers`, (n, D) for each of L + 1 depths: where the first answer token is predicted; `cuts`: whole states at some.

    The last depth has the width that the head reads: OPT may project it to a narrower one.
    """

    answers: list[Tensor]
    cuts: dict[int, States]


def fitting(lengths: Sequence[int], width: int, num_cuts: int) -> int:
    """How many of the examples can be kept at so many depths in a quarter of the memory that is free; at least 1."""
    room = available_memory() // 4
    total = 0
    for count, length in enumerate(lengths):
        total += length * width * 4 * num_cuts
        if total > room:
            return max(1, count)
    return len(lengths)


def run_depths(feed: Feed, cuts: Sequence[int]) -> Depths:
    """Run the model over the feed's examples once; the trunk is closed meanwhile."""
    trunk, offsets = feed.trunk, [0]
    for length in feed.lengths:
        offsets.append(offsets[-1] + length)
    answers: list[Tensor] = []
    kept = {cut: torch.zeros(offsets[-1], trunk.base.width) for cut in cuts if cut > 0}
    order = sorted(range(len(feed.examples)), key=lambda i: (-feed.lengths[i], i))
    with torch.no_grad(), trunk.closed():
        for part in micro_batches(order, feed.lengths, rows=None, max_tokens=_TOKENS):
            ids, mask, *_ = feed.tensors(part)
            depths = trunk.backbone(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            first = torch.tensor([feed.examples[i].rows[0] for i in part], device=ids.device)
            for depth, hidden in enumerate(depths):  # (B, T, D)
                if depth == len(answers):
                    answers.append(torch.zeros(len(feed.examples), hidden.shape[-1]))
                answers[depth][part] = hidden[torch.arange(len(part)), first].float().cpu()
            for cut, data in kept.items():
                for b, i in enumerate(part):
                    data[offsets[i] : offsets[i + 1]] = depths[cut][b, : feed.lengths[i]].cpu()
    return Depths(answers, {cut: States(data, offsets, "", "memory") for cut, data in kept.items()})


def start_from(feed: Feed, depths: Depths) -> None:
    """Let a feed start from what its cut has said, where that is the same as running the whole model."""
    feed.states = depths.cuts.get(feed.trunk.start)
    if not is_exact(check_kept(feed), feed.trunk.base.device.dtype):
        feed.keep_nothing()
