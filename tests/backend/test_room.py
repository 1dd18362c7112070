"""A cache with room says what one that is copied for each token says."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from ctxtune.backend.room import growing_cache


def drawn(count: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, count, 4)


def test_it_grows_as_a_plain_cache_does() -> None:
    ours, plain = growing_cache(), DynamicCache()
    for count in (5, 1, 1, 7, 1, 40):
        for layer in range(2):
            keys, values = drawn(count), drawn(count)
            for found, expected in zip(
                ours.update(keys, values, layer), plain.update(keys, values, layer), strict=True
            ):
                assert torch.equal(found, expected)
    assert ours.get_seq_length() == plain.get_seq_length() == 55


def test_a_token_more_copies_nothing() -> None:
    cache = growing_cache()
    cache.update(drawn(6), drawn(6), 0)
    place = cache.layers[0].keys.data_ptr()
    for _ in range(6):
        cache.update(drawn(1), drawn(1), 0)
        assert cache.layers[0].keys.data_ptr() == place
    cache.update(drawn(1), drawn(1), 0)
    assert cache.layers[0].keys.data_ptr() != place


def test_what_left_or_was_cut_is_not_remembered() -> None:
    ours, plain = growing_cache(), DynamicCache()
    both = drawn(6), drawn(6)
    for cache in (ours, plain):
        cache.update(*both, 0)
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[..., :4, :], layer.values[..., :4, :]
    more = drawn(1), drawn(1)
    assert torch.equal(ours.update(*more, 0)[0], plain.update(*more, 0)[0])
    for cache in (ours, plain):
        cache.batch_select_indices(torch.tensor([1]))
    more = drawn(2, batch=1), drawn(2, batch=1)
    assert torch.equal(ours.update(*more, 0)[1], plain.update(*more, 0)[1])


def test_what_it_began_with_stays_as_it_is() -> None:
    keys, values = drawn(3, batch=1), drawn(3, batch=1)
    before = keys.clone()
    for _ in range(2):
        cache = growing_cache([(keys, values)])
        cache.update(drawn(1, batch=1), drawn(1, batch=1), 0)
        assert cache.get_seq_length() == 4
    assert torch.equal(keys, before)
