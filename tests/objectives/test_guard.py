"""The guard's lower bound of the KL and its gradient, by torch's whole distributions; dual ascent by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.backend.feed import Feed
from ctxtune.backend.trunk import Trunk
from ctxtune.evals.forgetting import drift, guard_examples, read_base
from ctxtune.objectives import guard as objective
from ctxtune.objectives.guard import AIM, HASTE, RATE, Guard, in_buckets, read_buckets

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base

IDS = [(7 * i * i + 3 * i) % 90 + 5 for i in range(300)]


def guarded(base: Base, trunk: Trunk, where: str = "off", rows: int = 2) -> tuple[Guard, Feed]:
    """A guard on a few rows, before anything moves."""
    feed = Feed(trunk, guard_examples(IDS, base.anatomy.kind, base.tokenizer.mask_token_id, base.max_length))
    feed.keep(where, "sha256:base")
    return Guard(feed, read_buckets(trunk, read_base(feed).hidden), 0.05, rows), feed


def by_hand(told: torch.Tensor, now: torch.Tensor, k: int) -> torch.Tensor:
    """KL over the k likeliest tokens and all others together, of whole distributions (N, V) in double precision."""
    total = torch.zeros((), dtype=torch.float64)
    for p, q in zip(told.double().softmax(-1), now.double().softmax(-1), strict=True):
        best = p.argsort(descending=True)[:k]
        rest = torch.ones(len(p), dtype=torch.bool)
        rest[best] = False
        total = (
            total + (p[best] * (p[best] / q[best]).log()).sum() + p[rest].sum() * (p[rest].sum() / q[rest].sum()).log()
        )
    return total


def test_buckets_of_whole_distributions() -> None:
    """Where a tail is near nothing too."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 300, generator=generator) * torch.tensor([1.0, 1, 3, 8, 30, 100])[:, None]
    tokens = logits.topk(20).indices
    found = in_buckets(logits, tokens)
    whole = logits.double().softmax(-1)
    torch.testing.assert_close(found[:, :20].double(), whole.gather(1, tokens).log(), rtol=1e-5, atol=1e-5)
    tail = 1 - whole.gather(1, tokens).sum(-1)
    torch.testing.assert_close(found[:, 20].double().exp(), tail, rtol=1e-4, atol=1e-6)
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "start"), [("llama-tied", 0), ("llama-untied", 2), ("gpt2-tied", 3), ("bert-tied", 1)]
)
def test_the_bound_and_its_gradient(
    kind: str, start: int, open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "BUCKETS", 20)
    base, plain = open_base(kind), open_base(kind)
    params = list(base.anatomy.block_list(base.model)[3].parameters())
    for param in params:
        param.requires_grad_(True)
    with Trunk(base, start) as trunk:
        guard, feed = guarded(base, trunk, "memory")
        base_said = read_base(feed)
        assert guard.pull(0, 2.0) == pytest.approx(0.0, abs=1e-6)
        torch.manual_seed(0)
        for param in params:
            param.data.add_(torch.randn_like(param) * 0.05)
            param.grad = None
        said, full, weight = guard.pull(1, 2.0), drift(feed, base_said).kl, 2.0
        bound = replace(guard, rows=len(feed.examples)).pull(0, 0.0)
    expected, tokens, whole = torch.zeros((), dtype=torch.float64), 0, 0.0
    for number, example in enumerate(feed.examples):
        ids, rows = torch.tensor([example.ids]), list(example.rows)
        with torch.no_grad():
            told = plain.model(input_ids=ids).logits[0, rows]
        nats = by_hand(told, base.model(input_ids=ids).logits[0, rows], 20)
        whole += nats.item()
        if number in (2, 3):  # the rows of step 1
            expected, tokens = expected + nats, tokens + len(rows)
    assert said == pytest.approx((expected / tokens).item(), rel=1e-3, abs=1e-6)
    assert bound == pytest.approx(whole / sum(len(one.rows) for one in feed.examples), rel=1e-3)
    assert 1e-4 < bound < full
    for found, true in zip(params, torch.autograd.grad(weight * expected / tokens, params), strict=True):
        assert (found.grad - true).abs().max() <= 1e-3 * max(true.abs().max().item(), 1e-4)


def test_without_a_weight_nothing_is_pulled(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    param = base.model.get_parameter("model.layers.3.mlp.down_proj.weight").requires_grad_(True)
    with Trunk(base, 3) as trunk:
        guard, _ = guarded(base, trunk)
        with torch.no_grad():
            param.add_(0.1)
        free = guard.pull(0, 0.0)
        assert param.grad is None
        assert guard.pull(0, 1.0) == pytest.approx(free, rel=1e-5)
        assert param.grad is not None


def test_rows_go_round(open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    base, asked = open_base("llama-tied"), []
    with Trunk(base) as trunk:
        guard, feed = guarded(base, trunk, rows=3)
        monkeypatch.setattr(feed, "parts", lambda batch: asked.append(list(batch)) or [])
        for step in range(3):
            guard.pull(step, 0.0)
    count = len(feed.examples)
    assert count == 5
    assert asked == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]


def test_dual_ascent_by_hand(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    with Trunk(base) as trunk:
        guard, _ = guarded(base, trunk)
    weight, before, aim = 0.0, 0.0, AIM * 0.05
    for kl in (0.0, 0.2, aim, 0.05, 0.0, 0.0):
        now, weight = weight, guard.ascend(weight, kl, before)
        above, was = min(kl / aim - 1, 1), min(before / aim - 1, 1)
        assert weight == pytest.approx(max(0.0, now + RATE * above + HASTE * (above - was)))
        before = kl
