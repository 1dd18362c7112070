"""A cache of keys and values with room to grow: a token more does not copy what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class Growing(DynamicLayer):  # type: ignore[misc]
    """Keys and values (B, H, T, d) are the beginning of tensors with twice the room that was needed when they were made."""

    keys: Tensor
    values: Tensor
    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if not self._holds(begin, end):
            self._room = (_wider(self.keys, key_states, end), _wider(self.values, value_states, end))
        assert self._room is not None
        for whole, new in zip(self._room, (key_states, value_states), strict=True):
            whole[..., begin:end, :] = new
        self.keys, self.values = (whole[..., :end, :] for whole in self._room)
        return self.keys, self.values

    def _holds(self, begin: int, end: int) -> bool:
        """Whether what is there still lies in the room, and there is enough of it: texts may have left, or been cut."""
        if self._room is None or not begin:
            return False
        keys, _ = self._room
        return self.keys.data_ptr() == keys.data_ptr() and len(self.keys) == len(keys) and end <= keys.shape[-2]


def _wider(known: Tensor, new: Tensor, length: int) -> Tensor:
    """A tensor with room for twice the length, which begins with what is known."""
    whole = new.new_empty(*new.shape[:-2], 2 * length, new.shape[-1])
    if known.numel():
        whole[..., : known.shape[-2], :] = known
    return whole


def growing_cache(layers: Iterable[tuple[Tensor, Tensor]] = ()) -> DynamicCache:
    """A cache of transformers' with room, which begins with these keys and values; they stay as they are."""
    cache = cache_of(layers, Growing)
    cache.layer_class_to_replicate = Growing
    return cache


def cache_of(layers: Iterable[tuple[Tensor, Tensor]], kind: type[DynamicLayer] = DynamicLayer) -> DynamicCache:
    """A cache of transformers' that begins with these keys and values; what is added to it leaves them as they are."""
    cache = DynamicCache()
    for keys, values in layers:
        layer = kind()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache
