"""Tokens that many texts begin with, read once: their keys and values, from which the texts go on.

What is kept is, of every token, what the layers' caches hold: keys as they are after rotation, and values. One token is one
row, k_0 v_0 k_1 v_1 ... of all layers, which is how PEFT writes PREFIX_TUNING (field `prompt_embeddings`), and lies in the
store of cache.py: a second run reads nothing again.

The texts share one row of tokens (apart.py), so that attention looks at the one copy of the prefix and none is made for a
text; Hydragen (Juravsky et al. 2024) gets the same by merging two softmaxes.

Shapes: P tokens of the prefix, H key heads and d numbers each of a layer.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ctxtune.backend.cache import keep_states, store_key
from ctxtune.backend.room import cache_of
from ctxtune.data.branch import shared
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ctxtune.backend.device import Device
    from ctxtune.backend.load import Base
    from ctxtune.backend.trunk import Trunk

Layers = list[tuple["Tensor", "Tensor"]]


@dataclass
class Prefix:
    """Keys and values (1, H, P, d) of every layer, of these tokens; `place` as of `cache.States`.

    `merges`: whether attention to it was found to merge exactly (merged.py); None where nobody has tried yet.
    """

    tokens: tuple[int, ...]
    layers: Layers
    place: str
    merges: bool | None = None

    def shared_with(self, tokens: Sequence[int]) -> Prefix:
        """As much of it as these tokens begin with."""
        both = shared([self.tokens, tuple(tokens)])
        layers = [(keys[:, :, : len(both)], values[:, :, : len(both)]) for keys, values in self.layers]
        return Prefix(both, layers, self.place)


def require_going_on(trunk: Trunk) -> None:
    """Refuse a model of which it is not known that it goes on from a prefix as from the text.

    Raises:
        ModelError: it is such a one.
    """
    if not trunk.goes_on:
        raise ModelError(
            f"that a {trunk.base.anatomy.family} model goes on from kept keys and values as from their text is not known: "
            "no adapter can hold its demonstrations",
            "take a model of another family",
        )


def read_prefix(trunk: Trunk, tokens: Sequence[int], where: str, mark: str, before: Prefix | None = None) -> Prefix:
    """The prefix as the model reads it, or as an earlier run has kept it. The trunk is closed meanwhile.

    `where` is auto, memory, disk or off; `mark` stands for the model's numbers. What is not kept may go on from what was
    read `before`, which the tokens begin with.
    """
    if where == "off":
        with trunk.closed(), torch.no_grad():
            return Prefix(tuple(tokens), _read(trunk, tokens, before), where)
    with trunk.closed(), torch.no_grad():
        shapes = _shapes(trunk)
        width = sum(heads * (k + v) for heads, k, v in shapes)
        key = store_key(model=mark, prefix=list(tokens), **trunk.base.computes())

        def fill(data: Tensor, _: Sequence[int]) -> None:
            data.copy_(as_rows(_read(trunk, tokens)))

        kept = keep_states(key, [len(tokens)], width, where, fill)
        if kept is None:
            return Prefix(tuple(tokens), _read(trunk, tokens), "off")
    return Prefix(tuple(tokens), _from_rows(kept.data, shapes, trunk.base.device), kept.place)


def kept_prefix(trunk: Trunk, tokens: Sequence[int], rows: Tensor) -> Prefix:
    """The prefix of these tokens from rows (P, sum of H d) that were kept of it.

    Raises:
        ValueError: this model's rows are of another width; it says how many numbers they have.
    """
    with trunk.closed(), torch.no_grad():
        shapes = _shapes(trunk)
    width = sum(heads * (k + v) for heads, k, v in shapes)
    if rows.shape != (len(tokens), width):
        raise ValueError(f"{width:,}")
    return Prefix(tuple(tokens), _from_rows(rows, shapes, trunk.base.device), "kept")


def _shapes(trunk: Trunk) -> list[tuple[int, int, int]]:
    """Of every layer the key heads, and the numbers of a key and a value: any token says them.

    Layers may differ, and configurations spell it in many ways.
    """
    return [(keys.shape[1], keys.shape[3], values.shape[3]) for keys, values in _read(trunk, [0])]


def _read(trunk: Trunk, tokens: Sequence[int], before: Prefix | None = None) -> Layers:
    """Keys and values by the model's own forward, some hundred tokens at a time: attention to all pairs stays small."""
    device, cache = trunk.base.device, cache_of(before.layers if before is not None else ())
    begun = 0 if before is None else len(before.tokens)
    takes = inspect.signature(trunk.backbone.forward).parameters
    for first in range(begun, len(tokens), device.stride):
        ids = torch.tensor([tokens[first : first + device.stride]], device=device.name)
        options: dict[str, Any] = {trunk.cache_name: cache, "use_cache": True}
        if "position_ids" in takes:
            options["position_ids"] = torch.arange(first, first + ids.shape[1], device=device.name)[None]
        trunk.backbone(input_ids=ids, **options)
    return [(layer.keys, layer.values) for layer in cache.layers]


def as_rows(layers: Layers) -> Tensor:
    """Keys and values (1, H, P, d) of every layer as one row a token, (P, sum of H d)."""
    both = [part[0].transpose(0, 1).flatten(1) for keys, values in layers for part in (keys, values)]
    return torch.cat(both, dim=1).cpu()


def bytes_a_token(base: Base) -> int:
    """What a token of a kept prefix takes on disk, as the model's configuration tells it."""
    config: Any = base.model.config
    told = config.get_text_config()
    heads = getattr(told, "num_key_value_heads", None) or told.num_attention_heads
    dim = getattr(told, "head_dim", None) or told.hidden_size // told.num_attention_heads
    return int(2 * told.num_hidden_layers * heads * dim * torch.float32.itemsize)


def _from_rows(rows: Tensor, shapes: Sequence[tuple[int, int, int]], device: Device) -> Layers:
    layers, column = [], 0
    for heads, *dims in shapes:
        both = []
        for dim in dims:
            part = rows[:, column : column + heads * dim].reshape(-1, heads, dim)
            both.append(part.transpose(0, 1)[None].contiguous().to(device.name, device.dtype))
            column += heads * dim
        layers.append((both[0], both[1]))
    return layers
