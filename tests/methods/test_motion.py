"""When layers move: ULMFiT's schedules by hand, LISA's draws by count, and what a run of some length ever reaches."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.errors import RecipeError
from ctxtune.methods.freeze import open_method
from ctxtune.methods.motion import Span
from ctxtune.recipe.load import load
from ctxtune.recipe.schema import Freeze

from ..conftest import KINDS, NUM_LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base
    from ctxtune.methods.freeze import Opened


def opened(base: Base, layers: str, span: Span, **settings: Any) -> Opened:
    return open_method(Freeze(name="freeze", layers=layers, **settings), base.model, base.anatomy, span)


def blocks(names: Any) -> set[int]:
    """The blocks that parameters stand in."""
    found = [re.search(r"\.(\d)\.", name) for name in names]
    return {int(match[1]) for match in found if match}


@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_has_a_share_of_the_next_higher_ones_rate(kind: str, open_base: Callable[[str], Base]) -> None:
    method = opened(open_base(kind), "last:3+embeddings", Span(9, 3), lr_decay=0.5)
    for step in range(9):
        shares = method.shares(step, step // 3)
        assert shares.keys() == method.params.keys()
        for name, share in shares.items():
            (layer,) = blocks([name]) or {0}  # embeddings count as the lowest layer
            assert share == 0.5 ** (NUM_LAYERS - 1 - layer), name


def test_the_highest_chosen_layer_has_the_whole_rate(open_base: Callable[[str], Base]) -> None:
    shares = opened(open_base("llama-untied"), "first:2", Span(3, 1), lr_decay=0.5).shares(0, 0)
    assert {share for name, share in shares.items() if ".1." in name} == {1.0}
    assert {share for name, share in shares.items() if ".0." in name} == {0.5}


def test_what_follows_the_last_block_moves_as_it_does(open_base: Callable[[str], Base]) -> None:
    shares = opened(open_base("llama-untied"), "last:2+norms+head", Span(9, 1), lr_decay=0.5).shares(0, 0)
    assert shares["lm_head.weight"] == shares["model.norm.weight"] == 1.0
    tied = opened(open_base("llama-tied"), "last:2+head", Span(9, 1), lr_decay=0.5).shares(0, 0)
    assert tied["lm_head.weight"] == 0.125  # the tied head is what enters block 0


@pytest.mark.parametrize("kind", KINDS)
def test_one_more_layer_each_epoch(kind: str, open_base: Callable[[str], Base]) -> None:
    method = opened(open_base(kind), "last:3", Span(20, 4), unfreeze="gradual")
    reached = [blocks(method.shares(step, step // 4)) for step in range(20)]
    assert reached == [{3}] * 4 + [{2, 3}] * 4 + [{1, 2, 3}] * 12


def test_a_run_that_ends_before_a_layer_moves_does_not_train_it(open_base: Callable[[str], Base]) -> None:
    for epochs, start in ((1, 3), (2, 2), (3, 1), (4, 0), (9, 0)):
        base = open_base("llama-untied")
        method = opened(base, "last:4", Span(2 * epochs, 2), unfreeze="gradual")
        assert method.start == start
        assert blocks(method.params) == set(range(start, NUM_LAYERS))
        assert blocks(method.modules) == set(range(start, NUM_LAYERS))
        moving = {name for name, param in base.model.named_parameters() if param.requires_grad}
        assert moving == set(method.params)
    begun = opened(open_base("llama-untied"), "last:4", Span(5, 2), unfreeze="gradual")
    assert begun.start == 1  # the third epoch has one step


def test_layers_are_drawn_anew_after_some_steps(open_base: Callable[[str], Base]) -> None:
    method = opened(open_base("llama-untied"), "all", Span(400, 10, 7), sample=2, sample_every=5)
    drawn = [blocks(method.shares(step, step // 10)) for step in range(400)]
    assert all(len(layers) == 2 for layers in drawn)
    assert all(drawn[step] == drawn[step - step % 5] for step in range(400))
    starts = drawn[::5]
    assert len({tuple(sorted(layers)) for layers in starts}) == 6  # all pairs of four
    counts = [sum(layer in layers for layers in starts) for layer in range(NUM_LAYERS)]
    assert sum(counts) == 160
    assert min(counts) > 25  # 40 each, with a deviation of 4.5


def test_what_lies_in_no_block_always_moves(open_base: Callable[[str], Base]) -> None:
    method = opened(open_base("llama-untied"), "last:3+embeddings+head", Span(60, 10), sample=1, sample_every=2)
    for step in range(60):
        shares = method.shares(step, step // 10)
        assert {"model.embed_tokens.weight", "lm_head.weight"} <= shares.keys()
        assert len(blocks(shares)) == 1
        assert blocks(shares) <= {1, 2, 3}


def test_draws_follow_from_the_seed(open_base: Callable[[str], Base]) -> None:
    def drawn(seed: int) -> list[set[int]]:
        method = opened(open_base("llama-untied"), "all", Span(100, 10, seed), sample=1, sample_every=1)
        return [blocks(method.shares(step, step // 10)) for step in range(100)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_a_short_run_starts_at_the_lowest_layer_it_draws(open_base: Callable[[str], Base]) -> None:
    for seed in range(8):
        method = opened(open_base("llama-untied"), "last:4", Span(3, 1, seed), sample=1, sample_every=2)
        drawn = blocks(method.shares(0, 0)) | blocks(method.shares(2, 2))
        assert blocks(method.params) == drawn
        assert method.start == min(drawn)


def test_without_a_span_everything_moves_some_time(open_base: Callable[[str], Base]) -> None:
    for settings in ({"unfreeze": "gradual"}, {"sample": 1}):
        base = open_base("llama-untied")
        method = open_method(Freeze(name="freeze", layers="all", **settings), base.model, base.anatomy)
        assert method.params.keys() == dict(base.model.named_parameters()).keys()


def test_more_layers_than_there_are(open_base: Callable[[str], Base]) -> None:
    with pytest.raises(RecipeError, match=r"method.sample is 3, but method.layers 'last:2' chooses 2 layers"):
        opened(open_base("llama-tied"), "last:2", Span(3, 1), sample=3)
    with pytest.raises(RecipeError, match="chooses 0 layers"):
        opened(open_base("llama-tied"), "embeddings", Span(3, 1), sample=1)


def test_two_orders_at_once() -> None:
    flags = {"model": "m", "method.name": "freeze", "method.sample": 2, "method.unfreeze": "gradual"}
    with pytest.raises(RecipeError, match="sample 2 and unfreeze gradual are two orders"):
        load(None, flags)
