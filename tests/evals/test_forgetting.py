"""KL and loss on the probe against whole logits of two models, whatever part of them was trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.backend.feed import Feed
from ctxtune.backend.trunk import Trunk
from ctxtune.evals.forgetting import BaseProbe, drift, kept_base, probe_examples, read_base, unmoved
from ctxtune.methods.freeze import open_method
from ctxtune.recipe.schema import Freeze

from ..conftest import BAD, CONTEXT, GOOD, KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base
    from ctxtune.data.encode import Encoded
    from ctxtune.methods.freeze import Opened

TEXT = " ".join(f"{text}, and then {other}." for text in GOOD for other in BAD) * 2


def probe(base: Base) -> list[Encoded]:
    ids = base.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return probe_examples(ids, base.anatomy.kind, base.tokenizer.mask_token_id, base.max_length)


def opened(base: Base, layers: str) -> Opened:
    return open_method(Freeze(name="freeze", layers=layers), base.model, base.anatomy)


def by_hand(before: torch.nn.Module, after: torch.nn.Module, examples: list[Encoded]) -> tuple[float, float]:
    """KL(base || tuned) and the tuned model's loss: means over the scored tokens, in double precision."""
    kl = loss = 0.0
    count = 0
    for example in examples:
        ids, rows = torch.tensor([example.ids]), list(example.rows)
        with torch.no_grad():
            was = before(input_ids=ids).logits[0, rows].double().log_softmax(-1)
            now = after(input_ids=ids).logits[0, rows].double().log_softmax(-1)
        kl += (was.exp() * (was - now)).sum().item()
        loss -= sum(now[i, label].item() for i, label in enumerate(example.labels))
        count += len(rows)
    return kl / count, loss / count


@pytest.mark.parametrize("where", ["memory", "off"])
@pytest.mark.parametrize("layers", ["last:1", "all", "head"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_moved_is_nothing_forgotten(
    kind: str, layers: str, where: str, open_base: Callable[[str], Base]
) -> None:
    base = open_base(kind)
    method = opened(base, layers)
    with Trunk(base, method.start) as trunk:
        feed = Feed(trunk, probe(base))
        feed.keep(where, "sha256:base")
        kept = read_base(feed)
        found, known = drift(feed, kept), unmoved(feed, kept)
    assert found.kl == known.kl == 0.0
    assert (known.loss, known.tokens) == (pytest.approx(found.loss, abs=1e-6), found.tokens)
    assert found.loss == pytest.approx(by_hand(base.model, base.model, probe(base))[1], abs=1e-5)
    assert found.tokens == sum(len(example.rows) for example in probe(base))


@pytest.mark.parametrize("layers", [
    "last:1", "1-2.mlp", "norms", "all", "embeddings", "head", "last:1+head",
])  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_against_whole_logits(kind: str, layers: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    method = opened(base, layers)
    torch.manual_seed(0)
    with Trunk(base, method.start) as trunk:
        feed = Feed(trunk, probe(base))
        feed.keep("memory", "sha256:base")
        kept = read_base(feed)
        with torch.no_grad():
            for parameter in method.params.values():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        found = drift(feed, kept)
    kl, loss = by_hand(open_base(kind).model, base.model, probe(base))
    assert found.kl == pytest.approx(kl, rel=1e-3, abs=1e-7)
    assert found.loss == pytest.approx(loss, abs=1e-5)
    assert found.kl > 1e-5


@pytest.mark.parametrize("layers", ["last:1", "all", "head"])
@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-untied", "bert-tied", "opt-projected-tied"])
def test_what_a_base_has_said_is_read_once(
    kind: str, layers: str, open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, and of other questions, from another cut or where nothing is to be kept, anew."""
    base = open_base(kind)
    method = opened(base, layers)
    passes: list[int] = []
    plain = Feed.hidden
    monkeypatch.setattr(Feed, "hidden", lambda feed, part: passes.append(len(part)) or plain(feed, part))

    def said(
        count: int | None = None, where: str = "disk", mark: str = "sha256:base", start: int = method.start
    ) -> tuple[BaseProbe, int]:
        with Trunk(base, start) as trunk:
            feed = Feed(trunk, probe(base)[:count])
            passes.clear()
            found = kept_base(feed, where, mark)
            return found, len(passes)

    rows = len(probe(base))
    first, second = said(), said()
    kept = not base.anatomy.outward
    assert (first[1], second[1]) == (rows, 0 if kept else rows)
    assert torch.equal(first[0].hidden, second[0].hidden)
    assert all(torch.equal(second[0].head[name], value) for name, value in first[0].head.items())
    assert first[0].head.keys() == second[0].head.keys()
    assert said(rows - 1)[1] == rows - 1
    assert said(where="off")[1] == rows
    assert said(mark="sha256:other")[1] == rows
    if method.start:
        assert said(start=0)[1] == rows


def test_a_model_that_blew_up_has_not_forgotten_nothing(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    with Trunk(base, 0) as trunk:
        feed = Feed(trunk, probe(base))
        kept = read_base(feed)
        with torch.no_grad():
            base.model.get_parameter("model.norm.weight").fill_(torch.nan)
        found = drift(feed, kept)
    assert math.isnan(found.kl)


def test_rows_of_a_causal_probe() -> None:
    examples = probe_examples(range(1000, 1000 + 150), "causal", None, CONTEXT)
    assert [len(example.ids) for example in examples] == [63, 63, 21]
    assert examples[0].ids == tuple(range(1000, 1063))
    assert examples[0].labels == tuple(range(1001, 1064))
    assert examples[0].rows == tuple(range(63))
    assert examples[1].ids[0] == 1064


def test_rows_of_a_masked_probe() -> None:
    (example,) = probe_examples(range(1000, 1020), "masked", 4, CONTEXT)
    assert example.rows == (3, 10, 17)
    assert example.labels == (1003, 1010, 1017)
    assert example.ids == tuple(4 if i in (3, 10, 17) else 1000 + i for i in range(20))


def test_at_most_16_rows_of_256() -> None:
    examples = probe_examples([7] * 10_000, "causal", None, 100_000)
    assert len(examples) == 16
    assert {len(example.ids) for example in examples} == {255}


def test_a_last_token_alone_is_left_out() -> None:
    assert len(probe_examples([7] * (CONTEXT + 1), "causal", None, CONTEXT)) == 1
    assert probe_examples([7], "causal", None, CONTEXT) == []


def test_a_short_masked_row_hides_its_first_token() -> None:
    (example,) = probe_examples([8, 9], "masked", 4, CONTEXT)
    assert (example.ids, example.rows, example.labels) == ((4, 9), (0,), (8,))
