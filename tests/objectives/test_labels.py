"""The loss on answers against a hand-written loop over plain forward passes, one example at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.backend.feed import Feed
from ctxtune.backend.trunk import Trunk
from ctxtune.data.encode import Encoded
from ctxtune.objectives.labels import Labels

from ..conftest import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctxtune.backend.load import Base

IDS = ((5, 6, 7, 8, 9, 10, 11), (12, 13, 14), (15, 16, 17, 18, 19), (20, 21))
ROWS = ((4, 5, 6), (2,), (1, 4), (0, 1))
EXAMPLES = [
    Encoded(ids, rows, tuple(30 + 3 * i + row for row in rows))
    for i, (ids, rows) in enumerate(zip(IDS, ROWS, strict=True))
]


def by_hand(base: Base, example: Encoded) -> float:
    """The summed nats of one example, in double precision from the logits on."""
    logits = base.model(input_ids=torch.tensor([example.ids])).logits[0].double()
    total = 0.0
    for row, label in zip(example.rows, example.labels, strict=True):
        total -= (logits[row, label] - logits[row].exp().sum().log()).item()
    return total


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, open_base: Callable[[str], Base]) -> Iterator[tuple[Labels, list[float]]]:
    base = open_base(request.param)
    with torch.no_grad():
        nats = [by_hand(base, example) for example in EXAMPLES]
    base.anatomy.block_list(base.model)[3].requires_grad_(True)
    with Trunk(base, 1) as trunk:
        feed = Feed(trunk, EXAMPLES)
        feed.keep("memory", "sha256:base")
        yield Labels(feed), nats


def test_the_sum_over_a_part(opened: tuple[Labels, list[float]]) -> None:
    labels, nats = opened
    for part in ([0], [1, 3], [0, 1, 2, 3], [3, 0]):
        loss = labels.loss(part)
        assert loss.shape == ()
        assert loss.requires_grad
        assert loss.item() == pytest.approx(sum(nats[i] for i in part), rel=1e-6)


def test_the_share_of_each_example(opened: tuple[Labels, list[float]]) -> None:
    labels, nats = opened
    for batch in ([0, 1, 2, 3], [3, 1], [2]):
        assert labels.losses(batch) == pytest.approx([nats[i] for i in batch], rel=1e-6)
    assert not torch.is_inference_mode_enabled()
    assert labels.loss([0]).requires_grad


def test_tokens_are_the_supervised_ones(opened: tuple[Labels, list[float]]) -> None:
    labels, _ = opened
    assert [labels.tokens([i]) for i in range(4)] == [3, 1, 2, 2]
    assert labels.tokens([0, 3]) == 5


def test_parts(opened: tuple[Labels, list[float]]) -> None:
    labels, nats = opened
    assert labels.parts([1, 0, 3], 1) == [[0], [1], [3]]
    assert labels.parts([1, 0, 3], None) == [[0, 1, 3]]
    total = sum(labels.loss(part).item() for part in labels.parts([0, 1, 2, 3], 1))
    assert total == pytest.approx(sum(nats), rel=1e-6)


@pytest.mark.parametrize("head", ["moves", "rests"])
def test_a_text_with_more_rows_than_fit(head: str, open_base: Callable[[str], Base]) -> None:
    """Its logits are made in chunks, and of a head that moves again in the backward pass: the same loss, the same gradients."""
    base = open_base("llama-tied")
    ids = torch.randint(5, 300, (1200,), generator=torch.Generator().manual_seed(4)).tolist()
    example = Encoded(tuple(ids), tuple(range(1199)), tuple(ids[1:]))
    params = list(base.anatomy.block_list(base.model)[3].parameters())
    if head == "moves":
        params.append(base.model.get_parameter("model.embed_tokens.weight"))
    for param in params:
        param.requires_grad_(True)
    logits = base.model(input_ids=torch.tensor([ids])).logits[0, :-1]
    whole = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")
    expected = torch.autograd.grad(whole, params)
    with Trunk(base) as trunk:
        labels = Labels(Feed(trunk, [example]))
        loss = labels.loss([0])
        found = [2 * one for one in torch.autograd.grad(loss / 2, params)]
        assert labels.losses([0]) == pytest.approx([whole.item()], rel=1e-6)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
