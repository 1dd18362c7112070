"""What a base minds of a change to each unit of its weights, read off a text once: the same for all tasks of that base."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ctxtune.commands.guard import guard_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from ctxtune.backend.feed import Feed
    from ctxtune.backend.load import Base
    from ctxtune.backend.mask import Kind
    from ctxtune.methods.motion import Minding

_MOST = 2**24  # numbers that are kept for later runs: single entries are as many as the model has
_SEED = 0  # of the labels that are drawn: not the run's, so that another run finds what was read


def minding_over(base: Base, text: str | None, mark: str, where: str) -> Minding | None:
    """How a method looks at what the base minds of a text, where there is one; kept as what frozen layers say is."""
    if text is None:
        return None

    def minding(kinds: Mapping[str, Kind], counts: Sequence[int]) -> dict[str, Tensor]:
        from ctxtune.backend.feed import Feed
        from ctxtune.backend.trunk import Trunk

        _, whole = guard_rows(text, base.tokenizer, base.anatomy, base.max_length)
        with Trunk(base) as trunk:
            return _kept(Feed(trunk, whole), kinds, counts, mark, where if sum(counts) <= _MOST else "off")

    return minding


def _kept(text: Feed, kinds: Mapping[str, Kind], counts: Sequence[int], mark: str, where: str) -> dict[str, Tensor]:
    """The mean of F over each unit, as an earlier run left it or read now."""
    from ctxtune.backend.cache import keep_states, store_key

    base = text.trunk.base

    def fill(data: Tensor, offsets: Sequence[int]) -> None:
        found = _read(text, kinds)
        for name, (begin, end) in zip(kinds, pairwise(offsets), strict=True):
            data[begin:end, 0] = found[name].cpu() if name in found else 0.0

    key = store_key(model=mark, minded=list(kinds.items()), tokens=text.tokens_hash(), seed=_SEED, **base.computes())
    kept = keep_states(key, counts, 1, where, fill)
    if kept is None:
        return _read(text, kinds)
    device = next(base.model.parameters()).device
    spans = zip(kinds, pairwise(kept.offsets), strict=True)
    return {name: kept.data[begin:end, 0].to(device) for name, (begin, end) in spans}


def _read(text: Feed, kinds: Mapping[str, Kind]) -> dict[str, Tensor]:
    """The same, of the tensors that the text comes by."""
    from ctxtune.evals.curvature import passes
    from ctxtune.methods.scoring import means, summed

    def backward() -> None:
        for _ in passes(text, _SEED):
            pass

    sums, rows = summed(
        text.trunk.base.model, kinds, backward, lambda name, gradient: means(gradient.square(), kinds[name])
    )
    return {name: some / rows for name, some in sums.items()}
