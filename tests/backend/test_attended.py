"""A few tokens of a long prefix: those that eager attention names, at the distance that they had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.backend.attended import read_attended
from ctxtune.backend.prefix import read_prefix
from ctxtune.backend.room import cache_of
from ctxtune.backend.trunk import Trunk

from .test_prefix import CAUSAL_KINDS
from .test_trunk import double  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base

TOKENS = [(5 * i * i + 3 * i) % 90 + 5 for i in range(23)]
QUESTIONS = [[7, 9, 11], [40, 12], [33, 8, 21, 60, 5]]
COUNT = 6
NEAR = 1e-6  # models compute the angles of positions in float32


def config(base: Base) -> Any:
    return base.model.config


def rotates(base: Base) -> bool:
    return getattr(config(base).get_text_config(), "rope_parameters", None) is not None


def by_eager(base: Base) -> list[torch.Tensor]:
    """By the attention that transformers itself tells, over whole texts."""
    base.model.set_attn_implementation("eager")  # type: ignore[operator]
    total: list[torch.Tensor] = []
    for question in QUESTIONS:
        with torch.no_grad():
            told = base.model(input_ids=torch.tensor([TOKENS + question]), output_attentions=True).attentions
        found = [layer[0, :, -1, : len(TOKENS)].sum(0) for layer in told]
        total = [a + b for a, b in zip(total, found, strict=True)] if total else found
    base.model.set_attn_implementation("sdpa")  # type: ignore[operator]
    return total


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "gpt_neox-untied", "qwen3-untied"])
def test_those_that_are_looked_at_most(kind: str, double: Callable[[str], Base]) -> None:  # noqa: F811
    """Values say which tokens they are of, keys where these stand: read by the model at those positions."""
    base = double(kind)
    places = [look.topk(COUNT).indices.sort().values for look in by_eager(base)]
    assert len({tuple(some.tolist()) for some in places}) > 1
    with Trunk(base, 0) as trunk:
        found = read_attended(trunk, TOKENS, QUESTIONS, COUNT)
        whole = read_prefix(trunk, TOKENS, "off", "").layers
        first = COUNT - len(TOKENS) if rotates(base) else 0
        near = read_prefix(trunk, TOKENS, "off", "", first=first).layers
    assert found is not None
    for (keys, values), place, (_, all_values), (near_keys, _) in zip(found, places, whole, near, strict=True):
        torch.testing.assert_close(values, all_values[:, :, place], rtol=0, atol=NEAR)
        torch.testing.assert_close(keys, near_keys[:, :, place], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", CAUSAL_KINDS)
def test_they_keep_their_distance(kind: str, double: Callable[[str], Base]) -> None:  # noqa: F811
    """All of them, so many positions nearer: a question that stands as much nearer is answered as ever."""
    base, question = double(kind), torch.tensor([QUESTIONS[0]])
    if not rotates(base):
        pytest.skip("positions are no rotation")
    said = []
    with Trunk(base, 0) as trunk, trunk.closed(), torch.no_grad():
        for first in (0, COUNT - len(TOKENS)):
            layers = read_prefix(trunk, TOKENS, "off", "", first=first).layers
            places = torch.arange(len(QUESTIONS[0]))[None] + len(TOKENS) + first
            options = {trunk.cache_name: cache_of(layers), "position_ids": places}
            said.append(trunk.backbone(input_ids=question, **options).last_hidden_state)
    torch.testing.assert_close(said[0], said[1], rtol=0, atol=NEAR)


@pytest.mark.parametrize("kind", CAUSAL_KINDS)
def test_as_many_as_there_are_are_all(kind: str, double: Callable[[str], Base]) -> None:  # noqa: F811
    base = double(kind)
    with Trunk(base, 0) as trunk:
        found = read_attended(trunk, TOKENS, QUESTIONS, len(TOKENS))
        whole = read_prefix(trunk, TOKENS, "off", "").layers
    if found is None:
        assert kind.startswith("falcon")  # asks torch itself
        return
    for pair, other in zip(found, whole, strict=True):
        for part, same in zip(pair, other, strict=True):
            torch.testing.assert_close(part, same, rtol=0, atol=0)


def test_attention_that_is_not_shown(double: Callable[[str], Base]) -> None:  # noqa: F811
    base = double("llama-tied")
    base.model.set_attn_implementation("eager")  # type: ignore[operator]
    with Trunk(base, 0) as trunk:
        assert read_attended(trunk, TOKENS, QUESTIONS, COUNT) is None
