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

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from ctxtune.backend.load import Base

# Arguments of a block that have one entry a token and are known how to cut to rows.
_PER_TOKEN = {"position_embeddings", "position_ids", "cache_position"}
# What families, and versions of transformers (from 5.20 on `cache`), call the argument that takes a cache.
_CACHES = ("cache", "past_key_values", "layer_past", "past_key_value")


class _Cut(Exception):
    """Leaves the model's forward with what was wanted of it."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class _Taker:
    """Takes a block's keys and values (B, Hkv, T, dh) where the block hands them to a cache."""

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        raise _Cut((keys, values))


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


class _Below(_Hidden):
    """Below the cut: skipped where states are handed over."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.block(hidden, *args, **kwargs) if self.trunk.handed is None else hidden


class _Border(_Hidden):
    """The last block below the cut: hands the kept states over, or yields them."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.trunk.handed is not None:
            return self.trunk.handed
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
            whole = self.block(**{**arguments, cache: _Taker()})
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
    """Blocks return the hidden states, or a tuple that begins with them."""
    return output[0] if isinstance(output, tuple) else output


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
    slot = torch.arange(len(b), device=b.device) - first[b]
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
        mask = mask.expand(len(rows), -1, num_tokens, num_tokens)
        return mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, num_tokens))
    if not causal:
        return None
    return (torch.arange(num_tokens, device=rows.device) <= rows[..., None])[:, None]


class _Capped(nn.Module):
    """A head whose logits are bent into (-cap, cap): z' = cap tanh(z / cap) (Gemma 2, 2024)."""

    def __init__(self, head: nn.Module, cap: float) -> None:
        super().__init__()
        self.head = head
        self.cap = cap

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(hidden)
        return self.cap * torch.tanh(logits / self.cap)


def _capped(head: nn.Module, model: Any) -> nn.Module:
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return _Capped(head, cap) if cap else head


class Trunk:
    """A model opened at block `start`: `with Trunk(base, start) as trunk`. On leaving, every block is back in its place.

    Inside, names of parameters below the cut and in the last block are hidden: collect what trains before.
    """

    def __init__(self, base: Base, start: int = 0, narrow: bool = True) -> None:
        self.base = base
        self.start = start
        self.causal = base.anatomy.kind == "causal"
        # Only where attention takes a boolean mask can the rows' own mask be handed in.
        self.narrow = narrow and base.attention == "sdpa"
        self.plain = False  # set where the shortcuts turn out not to be exact for this model
        self.blocks = base.anatomy.block_list(base.model)
        self.backbone = base.model.get_submodule(base.anatomy.backbone)
        self.head = _capped(base.model.get_submodule(base.anatomy.head), base.model)
        after = ([base.anatomy.norm] if base.anatomy.norm else []) + list(base.anatomy.outward)
        self.norm = nn.Sequential(*map(base.model.get_submodule, after))
        self.handed: Tensor | None = None
        self.wanted: Any = None
        self._kept: list[nn.Module] = []

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Every block back in its place for a moment, for the model's own plain forward."""
        self.__exit__()
        try:
            yield
        finally:
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

    def enter(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """What enters block `start`, (B, T, D), for tokens ids (B, T); nothing above is run."""
        if self.start == 0:
            raise ValueError("no block lies below the cut")
        with torch.no_grad():
            return self._run(ids, mask, None, None)

    def rows(self, ids: Tensor, mask: Tensor | None, b: Tensor, t: Tensor, states: Tensor | None = None) -> Tensor:
        """Final states (N, D), normed, of the answer rows at (b, t), b ascending; from states (B, T, D) where given."""
        if self.start == len(self._kept):
            hidden = self.enter(ids, mask) if states is None else states
            return self._norm(hidden[b, t])
        return self._norm(self._run(ids, mask, (b, t), states))

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) to (N, V)."""
        result: Tensor = self.head(hidden)
        return result

    def _norm(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.norm(hidden)
        return result

    def _run(self, ids: Tensor, mask: Tensor | None, wanted: Any, states: Tensor | None) -> Tensor:
        with self._set(wanted, states):
            try:
                self.backbone(input_ids=ids, attention_mask=mask, **({"use_cache": False} if self.causal else {}))
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
