"""Tokens that many texts begin with, read once: their keys and values, from which the texts go on.

What is kept is, of every token, what the layers' caches hold: keys as they are after rotation, and values. One token is one
row, k_0 v_0 k_1 v_1 ... of all layers, which is how PEFT writes PREFIX_TUNING (field `prompt_embeddings`), and lies in the
store of cache.py: a second run reads nothing again.

The texts share one row of tokens (apart.py), so that attention looks at the one copy of the prefix and none is made for a
text; Hydragen (Juravsky et al. 2024) gets the same by merging two softmaxes.

Shapes: P tokens of the prefix, H key heads and d numbers each of a layer.
"""

from __future__ import annotations

import hashlib
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

    from torch import Tensor, nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.device import Device
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

    def repeated(self, rows: int) -> Layers:
        """Keys and values (B, H, P, d) for so many texts, without a copy."""
        return [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in self.layers]

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
        raise not_going_on(trunk.base.anatomy)


def not_going_on(anatomy: Anatomy) -> ModelError:
    """Of a family it is not known that it goes on from kept keys and values."""
    return ModelError(
        f"that a {anatomy.family} model goes on from kept keys and values as from their text is not known: "
        "nothing can be put before its texts",
        "take a model of another family",
    )


def read_prefix(
    trunk: Trunk, tokens: Sequence[int], where: str, mark: str, before: Prefix | None = None, first: int = 0
) -> Prefix:
    """The prefix as the model reads it, or as an earlier run has kept it. The trunk is closed meanwhile.

    `where` is auto, memory, disk or off; `mark` stands for the model's numbers. What is not kept may go on from what was
    read `before`, which the tokens begin with, and have another position than 0 of its `first` token.
    """
    if where == "off":
        with trunk.closed(), torch.no_grad():
            return Prefix(tuple(tokens), _read(trunk, tokens, before, first), where)
    with trunk.closed(), torch.no_grad():
        shapes = shapes_of(trunk)
        width = sum(heads * (k + v) for heads, k, v in shapes)
        key = store_key(model=mark, prefix=list(tokens), **trunk.base.computes())

        def fill(data: Tensor, _: Sequence[int]) -> None:
            data.copy_(as_rows(_read(trunk, tokens))[0])

        kept = keep_states(key, [len(tokens)], width, where, fill)
        if kept is None:
            return Prefix(tuple(tokens), _read(trunk, tokens), "off")
    return Prefix(tuple(tokens), from_rows(kept.data[None], shapes, trunk.base.device), kept.place)


def read_vectors(trunk: Trunk, vectors: Tensor) -> Layers:
    """Keys and values that the model makes of vectors (P, D) in the place of embedded tokens; gradients reach the vectors.

    Causal models let nothing that follows change them: they are made once for a batch, and not once for each example.
    """
    return read_through(trunk, inputs_embeds=vectors[None])


def read_through(trunk: Trunk, **told: Tensor) -> Layers:
    """Keys and values (B, H, T, d) of every layer, by one forward over what is told. The trunk is closed meanwhile."""
    cache = cache_of(())
    options: dict[str, Any] = {trunk.cache_name: cache, "use_cache": True}
    with trunk.closed():
        trunk.backbone(**told, **options)
    return [(layer.keys, layer.values) for layer in cache.layers]


def going_on(trunk: Trunk, prefix: Prefix, mask: Tensor) -> dict[str, Any]:
    """What the model's own forward is told, so that texts with this mask (B, T), padded at the right, stand behind it."""
    before, (rows, columns) = len(prefix.tokens), mask.shape
    options: dict[str, Any] = {
        "attention_mask": torch.cat([mask.new_ones(rows, before), mask], dim=1),
        trunk.cache_name: cache_of(prefix.repeated(rows)),
    }
    if "position_ids" in inspect.signature(trunk.backbone.forward).parameters:
        options["position_ids"] = torch.arange(before, before + columns, device=mask.device).expand(rows, -1)
    return options


def kept_prefix(trunk: Trunk, tokens: Sequence[int], rows: Tensor) -> Prefix:
    """The prefix of these tokens from rows (P, sum of H d) that were kept of it.

    Raises:
        ValueError: this model's rows are of another width; it says how many numbers they have.
    """
    with trunk.closed(), torch.no_grad():
        shapes = shapes_of(trunk)
    width = sum(heads * (k + v) for heads, k, v in shapes)
    if rows.shape != (len(tokens), width):
        raise ValueError(f"{width:,}")
    return Prefix(tuple(tokens), from_rows(rows[None], shapes, trunk.base.device), "kept")


def vectors_prefix(trunk: Trunk, tokens: Sequence[int], vectors: Tensor) -> Prefix:
    """The prefix that the model makes of vectors (P, D), which stand for these virtual tokens.

    Raises:
        ValueError: this model's vectors are of another width; it says how many numbers they have.
    """
    width = embedding_of(trunk.base.model).weight.shape[1]
    if vectors.shape[1] != width:
        raise ValueError(f"{width:,}")
    device = trunk.base.device
    with torch.no_grad():
        return Prefix(tuple(tokens), read_vectors(trunk, vectors.to(device.name, device.dtype)), "kept")


def shapes_of(trunk: Trunk) -> list[tuple[int, int, int]]:
    """Of every layer the key heads, and the numbers of a key and a value: any token says them.

    Layers may differ, and configurations spell it in many ways.
    """
    return [(keys.shape[1], keys.shape[3], values.shape[3]) for keys, values in _read(trunk, [0])]


def _read(trunk: Trunk, tokens: Sequence[int], before: Prefix | None = None, position: int = 0) -> Layers:
    """Keys and values by the model's own forward, some hundred tokens at a time: attention to all pairs stays small."""
    device, cache = trunk.base.device, cache_of(before.layers if before is not None else ())
    begun = 0 if before is None else len(before.tokens)
    takes = inspect.signature(trunk.backbone.forward).parameters
    for first in range(begun, len(tokens), device.stride):
        ids = torch.tensor([tokens[first : first + device.stride]], device=device.name)
        options: dict[str, Any] = {trunk.cache_name: cache, "use_cache": True}
        if "position_ids" in takes:
            options["position_ids"] = position + torch.arange(first, first + ids.shape[1], device=device.name)[None]
        trunk.backbone(input_ids=ids, **options)
    return [(layer.keys, layer.values) for layer in cache.layers]


def as_rows(layers: Layers) -> Tensor:
    """Keys and values (B, H, P, d) of every layer as one row a token, (B, P, sum of H d)."""
    both = [part.transpose(1, 2).flatten(2) for keys, values in layers for part in (keys, values)]
    return torch.cat(both, dim=2)


def rows_hash(layers: Layers) -> str:
    """What stands for the numbers of some layers."""
    return hashlib.sha256(as_rows(layers).detach().float().cpu().numpy().tobytes()).hexdigest()


def sizes(model: nn.Module) -> tuple[int, int, int]:
    """Layers, heads of keys and values in each, and numbers of a key, as the model's configuration tells them."""
    config: Any = model.config
    told = config.get_text_config()
    one = getattr(told, "multi_query", False) and not getattr(told, "new_decoder_architecture", False)  # Falcon's names
    named = (getattr(told, name, None) for name in ("num_key_value_heads", "num_kv_heads", "num_attention_heads"))
    heads = 1 if one else next(filter(None, named))
    dim = getattr(told, "head_dim", None) or told.hidden_size // told.num_attention_heads
    return told.num_hidden_layers, heads, dim


def embedding_of(model: nn.Module) -> nn.Embedding:
    """The module that embeds tokens."""
    whole: Any = model
    found: nn.Embedding = whole.get_input_embeddings()
    return found


def bytes_a_token(model: nn.Module) -> int:
    """What a token of a kept prefix takes on disk."""
    layers, heads, dim = sizes(model)
    return 2 * layers * heads * dim * torch.float32.itemsize


def from_rows(rows: Tensor, shapes: Sequence[tuple[int, int, int]], device: Device) -> Layers:
    """Rows (B, P, sum of H d) as keys and values (B, H, P, d) of every layer."""
    layers, column = [], 0
    for heads, *dims in shapes:
        both = []
        for dim in dims:
            part = rows[:, :, column : column + heads * dim].reshape(*rows.shape[:2], heads, dim)
            both.append(part.transpose(1, 2).contiguous().to(device.name, device.dtype))
            column += heads * dim
        layers.append((both[0], both[1]))
    return layers
