"""Choosing a token: filters against their definitions and transformers' `generate`, draws against their odds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from ctxtune.backend import sample
from ctxtune.backend.sample import Sampler, Seeds, draw, filters, seen
from ctxtune.recipe.written import Generation

LOGITS = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def by_hand(logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """One row: which tokens are left, and how likely they are."""
    odds = (logits.double() / temperature).softmax(0)
    if top_k:
        odds = torch.where(odds >= odds.sort(descending=True).values[min(top_k, 50) - 1], odds, 0.0)
        odds = odds / odds.sum()
    if top_p < 1:
        order = odds.argsort(descending=True)
        before = odds[order].cumsum(0) - odds[order]
        odds[order[before >= top_p]] = 0.0
        odds = odds / odds.sum()
    if min_p:
        odds = torch.where(odds >= min_p * odds.max(), odds, 0.0)
    return odds / odds.sum()


CASES: list[dict[str, Any]] = [
    {"temperature": 1.0}, {"temperature": 0.7, "top_k": 5}, {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 2.0, "min_p": 0.2}, {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {"temperature": 1.0, "top_p": 0.01}, {"temperature": 1.0, "top_k": 1000},
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_filters_are_what_they_are_called(case: dict[str, Any]) -> None:
    settings = Generation(**case)
    odds = filters(settings)(None, LOGITS.clone()).softmax(-1)
    for row, logits in zip(odds, LOGITS, strict=True):
        hand = by_hand(logits, settings.temperature, settings.top_k, settings.top_p, settings.min_p)
        assert torch.equal(row > 0, hand > 0)
        assert (row - hand).abs().max() < 1e-6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_filters_are_those_of_generate(case: dict[str, Any]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=50)
    config = GenerationConfig(do_sample=True, **{"top_k": 0, **case})
    chain = LlamaForCausalLM(tiny)._get_logits_processor(config, 1, torch.zeros(4, 1), None, [], device="cpu")
    ours = filters(Generation(**case))
    assert torch.equal(ours(None, LOGITS.clone()), chain(torch.zeros(4, 1, dtype=torch.long), LOGITS.clone()))


def test_draws_have_the_odds_of_the_distribution() -> None:
    odds = torch.tensor([[0.1, 0.0, 0.25, 0.65, 0.0]])
    generator, count = torch.Generator().manual_seed(0), 20_000
    found = torch.bincount(torch.tensor([draw(odds, [generator])[0] for _ in range(count)]), minlength=5) / count
    assert found[1] == found[4] == 0
    assert (found - odds[0]).abs().max() < 4 * (0.25 / count) ** 0.5


def test_the_largest_draw_still_is_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """u just below 1, and tokens without probability at the end."""
    almost = torch.tensor([1.0], dtype=torch.float64).nextafter(torch.tensor([0.0], dtype=torch.float64))
    monkeypatch.setattr(torch, "rand", lambda *_, **__: almost)
    for odds in ([0.3, 0.7, 0.0, 0.0], [1.0, 0.0], [1e-30, 0.0]):
        (index,) = draw(torch.tensor([odds]), generators(1))
        assert odds[index] > 0


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1e-300])
def test_no_warmth_is_the_likeliest(temperature: float) -> None:
    sampler = Sampler(Generation(temperature=temperature))
    assert sampler(LOGITS, [[0]] * 4, generators(4)) == LOGITS.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-5, 2e-5, 1.0, 1000.0])
def test_no_temperature_overflows(temperature: float) -> None:
    sampler = Sampler(Generation(temperature=temperature, repetition_penalty=100.0))
    found = sampler(LOGITS * 1e6, [[0]] * 4, generators(4))
    assert all(0 <= token < 50 for token in found)


def test_texts_of_several_lengths_are_padded_with_what_they_have_seen() -> None:
    assert seen([[4, 5, 6], [7], [8, 9]], torch.device("cpu")).tolist() == [[4, 5, 6], [7, 7, 7], [8, 9, 8]]


def test_seeds() -> None:
    first, again, other = Seeds(0), Seeds(0), Seeds(1)
    numbers = [first([1, 2]), first([1, 2]), first([12]), first([1, 2])]
    assert len(set(numbers)) == 4
    assert [again([12]), again([1, 2]), again([1, 2]), again([1, 2])] == [numbers[2], *numbers[:2], numbers[3]]
    assert other([1, 2]) not in numbers
    assert all(0 <= number < 2**63 for number in numbers)


def test_what_came_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three prompts; one that comes again stays."""
    monkeypatch.setattr(sample, "REMEMBERED", 3)
    seeds, fresh = Seeds(0), Seeds(0)
    drawn = [seeds([prompt]) for prompt in (1, 2, 3, 1, 4, 1, 2)]
    assert len({drawn[0], drawn[3], drawn[5]}) == 3
    assert drawn[1] == drawn[6] == fresh([2])
