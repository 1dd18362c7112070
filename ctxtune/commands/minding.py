"""What a base minds of a change to each unit of its weights, read off a text once: the same for all tasks of that base.

A mask by contrast is chosen by it, and what moves then costs it (methods/penalty.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, cast

from ctxtune.commands.guard import guard_rows
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.recipe.mask import Mask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from ctxtune.backend.feed import Feed
    from ctxtune.backend.load import Base
    from ctxtune.backend.mask import Kind
    from ctxtune.commands.clock import Clock
    from ctxtune.methods.mask import Opened
    from ctxtune.methods.motion import Minding, Span
    from ctxtune.methods.registry import Method
    from ctxtune.recipe.schema import Method as Settings

_MOST = 2**24  # numbers that are kept for later runs: single entries are as many as the model has
_SEED = 0  # of the labels that are drawn: not the run's, so that another run finds what was read


@dataclass(frozen=True)
class Minds:
    """What the base minds of changes, where they cost that: of the units that a choice by contrast knew, else by a text."""

    units: Mapping[str, Tensor] = field(default_factory=dict)
    text: Callable[[], Feed] | None = None
    seed: int = 0

    def weigh(self, method: Method, clock: Clock, say: Callable[[str], None]) -> None:
        """Let the changes of a method cost that."""
        from ctxtune.evals.curvature import fisher
        from ctxtune.methods.penalty import of_units

        if (penalty := method.penalty) is None or not penalty.ewc:
            return
        if self.units:
            penalty.fisher = of_units(self.units, cast("Opened", method).chosen)
        elif self.text is not None:
            with clock.part("fisher"), heartbeat(say, "reading what the base minds of each change"):
                penalty.fisher = fisher(penalty.flat, self.text(), self.seed)


def units_minded(settings: Settings, base: Base, course: Span) -> Mapping[str, Tensor]:
    """What the base minds of each unit that a choice by contrast was made from, where that has a price; single entries are too
    many to be known."""
    from ctxtune.methods.choosing import minded

    if (
        not isinstance(settings, Mask)
        or settings.select != "contrast"
        or settings.shape == "entries"
        or not settings.price
    ):
        return {}
    return minded(settings, base.model, base.anatomy, course)


def minding_over(base: Base, text: str | None, mark: str, where: str) -> Minding | None:
    """How a method looks at what the base minds of a text, where there is one; kept as what frozen layers say is."""
    if text is None:
        return None

    known: dict[str, dict[str, Tensor]] = {}

    def minding(kinds: Mapping[str, Kind], counts: Sequence[int]) -> dict[str, Tensor]:
        if (asked := repr(list(kinds.items()))) not in known:
            known[asked] = read(kinds, counts)
        return known[asked]

    def read(kinds: Mapping[str, Kind], counts: Sequence[int]) -> dict[str, Tensor]:
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
    return {name: some.div_(rows) for name, some in sums.items()}
