"""Run a model from layer `start` on, and only for the rows that are scored.

The model's own forward runs; nothing of it is copied. Blocks are replaced by modules that skip, hand over or cut:

    embeddings -> [0 .. start-2: skipped] -> [start-1: hands over kept states] -> start .. last-1 -> [last: answer rows only]

The list of blocks is never sliced: families that number their layers, or give them different masks, would be silently
wrong. In the last block only keys and values need every token; queries, the output projection and the feed-forward part
are computed for the answer rows alone. The seam is the cache protocol: on a first call the block's keys and values are
taken where it hands them to a cache, on the second the answer rows attend to them.

Shapes: B batch, T tokens, D width, N answer rows in the batch, R the most answer rows of one example, V vocabulary.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from ctxtune.backend.classifier import FirstToken
from ctxtune.backend.room import cache_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from ctxtune.backend.apart import Mask
    from ctxtune.backend.load import Base
    from ctxtune.backend.prefix import Prefix

# Arguments of a block that have one entry a token and are known how to cut to rows.
_PER_TOKEN = {"position_embeddings", "position_ids", "cache_position"}
# What families, and versions of transformers (from 5.20 on `cache`), call the argument that takes a cache.
_CACHES = ("cache", "past_key_values", "layer_past", "past_key_value")


class _Cut(Exception):
    """Leaves the model's forward with what was wanted of it."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


@dataclass(frozen=True)
class _Taker:
    """Takes a block's keys and values (B, Hkv, T, dh) where the block hands them to a cache, behind those that this holds."""

    cache: Any

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise _Cut((keys, values) if self.cache is None else self.cache.update(keys, values, *args, **kwargs))


@dataclass(frozen=True)
class _Giver:
    """Gives the keys and values of all tokens to a block that was called for some rows."""

    keys: Tensor
    values: Tensor

    def update(self, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        return self.keys, self.values


class _Hidden(nn.Module):
    """A stand-in for a block; the block itself is kept out of the module tree."""

    block: Any
    trunk: Trunk

    def __init__(self, block: nn.Module, trunk: Trunk) -> None:
        super().__init__()
        object.__setattr__(self, "block", block)
        object.__setattr__(self, "trunk", trunk)

    def __getattr__(self, name: str) -> Any:
        return said_by_block(self, name)

    def handed_on(self, hidden: Tensor) -> Any:
        """States as this family's blocks hand them on."""
        return (hidden,) if self.trunk.base.anatomy.tuples else hidden


def said_by_block(standing: nn.Module, name: str) -> Any:
    """What a stand-in does not know of itself, its block says: some models ask their blocks for the kind of their masks."""
    try:
        return nn.Module.__getattr__(standing, name)
    except AttributeError:
        return getattr(standing.__dict__["block"], name)


class _Below(_Hidden):
    """Below the cut: skipped where states are handed over."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.block(hidden, *args, **kwargs) if self.trunk.handed is None else self.handed_on(hidden)


class _Border(_Hidden):
    """The last block below the cut: hands the kept states over, or yields them."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.trunk.handed is not None:
            return self.handed_on(self.trunk.handed)
        output = self.block(hidden, *args, **kwargs)
        if self.trunk.wanted is None:
            raise _Cut(_first(output))
        return output


class _Last(_Hidden):
    """The last block: answer rows only, then out."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        b, t = self.trunk.wanted
        signature = inspect.signature(self.block.forward)
        call = signature.bind(hidden, *args, **kwargs)
        call.arguments.update(call.arguments.pop("kwargs", {}))
        arguments = dict(call.arguments)
        cache = cache_argument(signature.parameters)
        if cache is None or self.trunk.plain or not self.trunk.narrow or not _can_narrow(arguments, hidden, b):
            raise _Cut(_first(self.block(hidden, *args, **kwargs))[b, t])
        raise _Cut(self._narrow(arguments, cache, hidden, b, t))

    def _narrow(self, arguments: dict[str, Any], cache: str, hidden: Tensor, b: Tensor, t: Tensor) -> Tensor:
        rows, slot = _rows_by_example(b, t, len(hidden))  # (B, R), (N,)
        try:
            whole = self.block(**{**arguments, cache: _Taker(arguments.get(cache))})
        except _Cut as cut:
            keys, values = cut.value
        else:  # a block that asks no cache has said everything already
            every: Tensor = _first(whole)
            return every[b, t]
        name = next(iter(arguments))
        short = {key: _cut_to_rows(value, rows) if key in _PER_TOKEN else value for key, value in arguments.items()}
        short[name] = hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[-1]))  # (B, R, D)
        short["attention_mask"] = _mask_of_rows(
            arguments.get("attention_mask"), rows, hidden.shape[1], self.trunk.causal
        )
        short[cache] = _Giver(keys, values)
        answers: Tensor = _first(self.block(**short))  # (B, R, D)
        return answers[b, slot]


def cache_argument(parameters: Container[str]) -> str | None:
    """The one among the arguments of a block or a model that takes a cache."""
    return next((name for name in _CACHES if name in parameters), None)


def _first(output: Any) -> Any:
    """Blocks return the hidden states, or a tuple or a list that begins with them."""
    return output[0] if isinstance(output, tuple | list) else output


def _can_narrow(arguments: dict[str, Any], hidden: Tensor, b: Tensor) -> bool:
    """True where the block's arguments are understood, and most rows can be left out."""
    known = _PER_TOKEN | {"attention_mask"}
    tensors = {key for key, value in arguments.items() if value is not hidden and _holds_tensor(value)}
    most = int(torch.bincount(b).max())
    return tensors <= known and 2 * most <= hidden.shape[1]


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(map(_holds_tensor, value)))


def _rows_by_example(b: Tensor, t: Tensor, num_examples: int) -> tuple[Tensor, Tensor]:
    """Flat answer rows (N,) to a table (B, R) of positions, short ones filled with position 0, and each row's slot (N,)."""
    count = torch.bincount(b, minlength=num_examples)
    first = count.cumsum(0) - count
    order = b.argsort(stable=True)
    slot = torch.empty_like(b)
    slot[order] = torch.arange(len(b), device=b.device) - first[b[order]]
    rows = torch.zeros(num_examples, int(count.max()), dtype=torch.long, device=b.device)
    rows[b, slot] = t
    return rows, slot


def _cut_to_rows(value: Any, rows: Tensor) -> Any:
    if isinstance(value, tuple):
        return tuple(_cut_to_rows(item, rows) for item in value)
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 1:  # (T,)
        return value[rows]
    value = value.expand(len(rows), *value.shape[1:])  # (B, T) or (B, T, dh)
    index = rows if value.dim() == 2 else rows[..., None].expand(-1, -1, value.shape[-1])
    return value.gather(1, index)


def _mask_of_rows(mask: Tensor | None, rows: Tensor, num_tokens: int, causal: bool) -> Tensor | None:
    """The mask rows of the answer rows, (B, 1, R, T). No mask means plain causal attention, or attention to everything."""
    if mask is not None:
        mask = mask.expand(len(rows), -1, num_tokens, -1)
        return mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[-1]))
    if not causal:
        return None
    return (torch.arange(num_tokens, device=rows.device) <= rows[..., None])[:, None]


class _Said(nn.Module):
    """In the place of a backbone: final states that are known already."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.output = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)

    def forward(self, *_: object, **__: object) -> BaseModelOutputWithPastAndCrossAttentions:
        return self.output


class Speaking(nn.Module):
    """Final states to logits, by the model's own forward: its head, and whatever it does with what that says.

    Some families cap their logits, some scale them, some have layers between backbone and head. `parts` are the modules
    in which the numbers of all this lie.
    """

    model: Any
    above: Any

    def __init__(self, model: nn.Module, backbone: str, parts: Iterable[str] = ()) -> None:
        super().__init__()
        above, _, self.place = backbone.rpartition(".")
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "above", model.get_submodule(above))
        self.parts = nn.ModuleList(map(model.get_submodule, parts))

    def forward(self, hidden: Tensor) -> Tensor:
        """Shapes: (N, D) to (N, V)."""
        backbone = getattr(self.above, self.place)
        setattr(self.above, self.place, _Said(hidden[None]))
        try:
            tokens = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            logits: Tensor = self.model(input_ids=tokens).logits[0]
        finally:
            setattr(self.above, self.place, backbone)
        return logits


class Trunk:
    """A model opened at block `start`: `with Trunk(base, start) as trunk`. On leaving, every block is back in its place.

    Inside, names of parameters below the cut and in the last block are hidden: collect what trains before.
    """

    def __init__(self, base: Base, start: int = 0) -> None:
        self.base = base
        self.start = start
        self.causal = base.anatomy.kind == "causal"
        # Only where attention takes a boolean mask can the rows' own mask be handed in.
        self.narrow = base.attention == "sdpa"
        self.plain = False  # set where the shortcuts turn out not to be exact for this model
        self.blocks = base.anatomy.block_list(base.model)
        self.backbone = base.model.get_submodule(base.anatomy.backbone)
        self.cache_name = cache_argument(inspect.signature(self.backbone.forward).parameters) or _CACHES[1]
        row = base.anatomy
        inside = [name for name in row.outward if name.startswith(f"{row.backbone}.")]
        if row.kind == "classifier":  # transformers' own states end before it
            self.head: nn.Module = FirstToken([base.model.get_submodule(name) for name in (*row.outward, row.head)])
            inside = []
        else:
            rest = (name for name in row.outward if name not in inside)
            self.head = Speaking(base.model, row.backbone, [row.head, *rest])
        after = ([row.norm] if row.norm else []) + inside
        self.norm = nn.Sequential(*map(base.model.get_submodule, after))
        self.handed: Tensor | None = None
        self.wanted: Any = None
        self._kept: list[nn.Module] = []

    @property
    def goes_on(self) -> bool:
        """Whether texts may go on from keys and values that were read before them (prefix.py), behind a mask of ours."""
        return self.narrow and self.causal and not self.base.anatomy.derived

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Every block back in its place for a moment, for the model's own plain forward."""
        opened = bool(self._kept)
        self.__exit__()
        try:
            yield
        finally:
            if opened:
                self.__enter__()

    def __enter__(self) -> Trunk:
        self._kept = list(self.blocks)
        last = len(self._kept) - 1
        for index, block in enumerate(self._kept[: self.start]):
            self.blocks[index] = _Border(block, self) if index == self.start - 1 else _Below(block, self)
        if self.start <= last:
            self.blocks[last] = _Last(self._kept[last], self)
        return self

    def __exit__(self, *_: object) -> None:
        for index, block in enumerate(self._kept):
            self.blocks[index] = block
        self._kept = []

    def enter(self, ids: Tensor, mask: Mask, positions: Tensor | None = None, prefix: Prefix | None = None) -> Tensor:
        """What enters block `start`, (B, T, D), for tokens ids (B, T), behind a prefix or alone; nothing above is run."""
        if self.start == 0:
            raise ValueError("no block lies below the cut")
        with torch.no_grad():
            return self._run(ids, mask, positions, None, None, prefix)

    def rows(
        self,
        ids: Tensor,
        mask: Mask,
        b: Tensor,
        t: Tensor,
        states: Tensor | None = None,
        positions: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Final states (N, D), normed, of the answer rows at (b, t); from states (B, T, D) where given.

        `positions` (B, T) and a mask for them (apart.py) are given where rows hold several examples or branches, or go on
        from a prefix.
        """
        if self.start == len(self._kept):
            hidden = self.enter(ids, mask, positions, prefix) if states is None else states
            return self._norm(hidden[b, t])
        return self._norm(self._run(ids, mask, positions, (b, t), states, prefix))

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) to (N, V)."""
        result: Tensor = self.head(hidden)
        return result

    def _norm(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.norm(hidden)
        return result

    def _run(
        self, ids: Tensor, mask: Mask, positions: Tensor | None, wanted: Any, states: Tensor | None,
        prefix: Prefix | None = None,
    ) -> Tensor:  # fmt: skip
        options: dict[str, Any] = {"use_cache": False} if self.causal else {}
        if positions is not None:
            options["position_ids"] = positions
        if prefix is not None:
            options[self.cache_name] = cache_of(prefix.repeated(len(ids)))
        with self._set(wanted, states):
            try:
                self.backbone(input_ids=ids, attention_mask=mask, **options)
            except _Cut as cut:
                result: Tensor = cut.value
                return result
        raise RuntimeError("the model's forward never reached the cut")

    @contextmanager
    def _set(self, wanted: Any, states: Tensor | None) -> Iterator[None]:
        self.wanted, self.handed = wanted, states
        try:
            yield
        finally:
            self.wanted = self.handed = None
