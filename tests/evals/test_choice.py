"""Choice scores against a loop over plain transformers calls, one choice at a time, and the rules of the metrics by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.backend import feed as feed_file
from ctxtune.backend.prefix import Prefix
from ctxtune.backend.trunk import Trunk
from ctxtune.data.branch import grow
from ctxtune.data.encode import Encoded, encode_pairs
from ctxtune.evals.choice import Requests, argmax, behind, choice_scores, divergence
from ctxtune.evals.items import Item, summarise

from ..conftest import FAMILY_KINDS, review_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctxtune.backend.load import Base

CHOICES = ("negative", "positive", "good", "a mess", "x")
PROMPTS = [f"Review: {row['text']}\nSentiment:" for row in review_rows(5)] + ["It was", ""]


def by_hand(base: Base, prompt: str, choice: str) -> tuple[float, bool]:
    """lm-evaluation-harness's log-likelihood of a choice, and whether greedy decoding gives it."""
    tokenizer = base.tokenizer
    text = f"{prompt} {choice}" if prompt else choice
    whole = tokenizer(text)["input_ids"]
    if base.anatomy.kind == "masked":
        # RoBERTa's words begin with their space; a first token that is nothing else is not a part of the answer.
        spaced = f" {choice}" if prompt and base.anatomy.family == "roberta" else choice
        tokens = tokenizer(spaced, add_special_tokens=False)["input_ids"]
        count = len(tokens) - (not tokenizer.decode(tokens[:1]).strip())
        places = list(range(len(whole) - 1 - count, len(whole) - 1))  # [SEP] stands behind
        labels = [whole[place] for place in places]
        fed = [tokenizer.mask_token_id if i in places else token for i, token in enumerate(whole)]
    else:
        start = len(tokenizer(prompt)["input_ids"])
        if not prompt and whole[0] != tokenizer.bos_token_id:
            whole, start = [tokenizer.bos_token_id, *whole], 1
        fed, labels, places = whole[:-1], whole[start:], list(range(start - 1, len(whole) - 1))
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([fed])).logits[0, places].double()
    nats = logits.log_softmax(-1)
    return sum(nats[i, label].item() for i, label in enumerate(labels)), logits.argmax(-1).tolist() == labels


def in_rows(requests: Sequence[Encoded]) -> list[Sequence[Encoded]]:
    """A prompt's choices together."""
    return [requests[i : i + len(CHOICES)] for i in range(0, len(requests), len(CHOICES))]


@pytest.mark.parametrize("kind", FAMILY_KINDS)
@pytest.mark.parametrize("start", [0, 2])
def test_against_plain_transformers(kind: str, start: int, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    pairs = [(prompt, choice) for prompt in PROMPTS for choice in CHOICES]
    expected = [by_hand(base, prompt, choice) for prompt, choice in pairs]
    encoded = encode_pairs(base.tokenizer, pairs, delimiter=" ", kind=base.anatomy.kind)
    assert {1, 2} <= {len(one.labels) for one in encoded}
    with Trunk(base, start) as trunk:
        requests = Requests(trunk, in_rows(encoded))
        requests.feed.keep("memory", "sha256:base")
        found = requests.loglikelihoods()
    assert any(one.parents for one in requests.feed.examples) == (base.anatomy.kind == "causal")
    if base.anatomy.kind == "causal":
        assert sum(requests.feed.lengths) < sum(len(one.ids) for one in encoded) / 2
    assert [ll for ll, _ in found] == pytest.approx([ll for ll, _ in expected], abs=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_what_greedy_decoding_gives(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    ids = base.tokenizer("Review: great fun")["input_ids"]
    with torch.no_grad():
        likeliest = int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
    rows = (len(ids) - 1,)
    with Trunk(base) as trunk:
        found = Requests(trunk, [[Encoded(tuple(ids), rows, (label,)) for label in (likeliest, likeliest - 1)]])
        assert [greedy for _, greedy in found.loglikelihoods()] == [True, False]


@pytest.mark.parametrize("kind", ["llama-tied", "bert-tied"])
def test_choices_of_one_token_share_their_input(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    one_token = [
        word
        for word in ("bad", "fun", "great", "fine")
        if len(base.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1
    ]
    if kind.startswith("bert"):
        assert len(one_token) > 1
    pairs = [(prompt, choice) for prompt in PROMPTS[:3] for choice in ("x", "y", "z")]
    encoded = encode_pairs(base.tokenizer, pairs, delimiter="\n", kind=base.anatomy.kind)
    assert {len(one.labels) for one in encoded} <= {1, 2}
    with Trunk(base) as trunk:
        requests = Requests(trunk, [encoded])
    if all(len(one.labels) == 1 for one in encoded):
        assert len({(one.ids, one.rows) for one in encoded}) == 3
    if kind.startswith("bert"):
        assert len(requests.feed.examples) == len({(one.ids, one.rows) for one in encoded})
    else:
        assert [len(one.rows) for one in requests.feed.examples] == [
            len({one.ids[: row + 1] for one in encoded for row in one.rows})
        ]


def test_the_order_of_requests_does_not_matter(open_base: Callable[[str], Base]) -> None:
    base = open_base("gpt2-tied")
    pairs = [(prompt, choice) for prompt in PROMPTS[:4] for choice in CHOICES]
    encoded = encode_pairs(base.tokenizer, pairs, delimiter=" ", kind="causal")
    with Trunk(base) as trunk:
        forward = Requests(trunk, in_rows(encoded)).loglikelihoods()
        backward = Requests(trunk, in_rows(encoded[::-1])).loglikelihoods()
        twice = Requests(trunk, in_rows([*encoded, *encoded])).loglikelihoods()
    assert [ll for ll, _ in backward[::-1]] == pytest.approx([ll for ll, _ in forward], abs=1e-5)
    assert twice == [*forward, *forward]


@pytest.mark.parametrize("kind", ["llama-tied", "qwen3-sliding-tied", "opt-tied"])
def test_a_model_that_does_not_keep_branches_apart_reads_each_request_alone(
    kind: str, open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = open_base(kind)
    pairs = [(prompt, choice) for prompt in PROMPTS for choice in CHOICES]
    expected = [by_hand(base, *pair)[0] for pair in pairs]
    encoded = encode_pairs(base.tokenizer, pairs, delimiter=" ", kind="causal")
    monkeypatch.setattr(feed_file, "keep_apart", lambda base, ids, order, *_: (None, order))
    with Trunk(base) as trunk:
        requests = Requests(trunk, in_rows(encoded))
        assert not any(one.parents for one in requests.feed.examples)
        found = [ll for ll, _ in requests.loglikelihoods()]
    assert found == pytest.approx(expected, abs=1e-5)


def test_no_gradient_is_kept(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    base.model.requires_grad_(True)
    encoded = encode_pairs(base.tokenizer, [("It was", "good")], delimiter=" ", kind="causal")
    with Trunk(base) as trunk:
        Requests(trunk, [encoded]).loglikelihoods()
    assert all(parameter.grad is None for parameter in base.model.parameters())


def metrics(lls: Sequence[Sequence[float]], gold: Sequence[int], texts: Sequence[str]) -> dict[str, float]:
    rows = zip(lls, gold, strict=True)
    return summarise([Item("", 1, choice_scores(row, right, texts)) for row, right in rows])


def test_acc_acc_norm_and_acc_bytes() -> None:
    texts = ["no", "yes!", "ää"]  # 2, 4, 2 characters; 2, 4, 4 bytes
    lls = [
        [-1.0, -1.5, -9.0],  # plain: 0; by characters -0.5, -0.375, -4.5: 1; by bytes: 1
        [-4.0, -9.0, -3.9],  # plain: 2; by characters -2, -2.25, -1.95: 2; by bytes -2, -2.25, -0.975: 2
        [-2.0, -9.0, -2.5],  # plain: 0; by characters -1, -2.25, -1.25: 0; by bytes -1, -2.25, -0.625: 2
    ]
    found = metrics(lls, [1, 2, 2], texts)
    assert (found["acc"], found["acc_norm"], found["acc_bytes"]) == pytest.approx((1 / 3, 2 / 3, 1.0))
    assert found["loss"] == pytest.approx((1.5 + 3.9 + 2.5) / 3)
    assert found["rows"] == 3
    assert metrics([[-1.0, -2.5]], [1], ["a", "bcd"])["acc_norm"] == 1.0  # -1 and -0.83 a character
    assert metrics([[-1.0, -3.5]], [0], ["a", "bcd"])["acc_norm"] == 1.0


def test_standard_errors_by_hand() -> None:
    lls = [[0.0, -1.0]] * 10
    found = metrics(lls, [0] * 7 + [1] * 3, ["aa", "bb"])
    assert found["acc"] == pytest.approx(0.7)
    # lm-evaluation-harness: sample_stddev / sqrt(n), which is sqrt(p (1 - p) / (n - 1)) for hits and misses
    assert found["acc_stderr"] == pytest.approx(math.sqrt(0.7 * 0.3 / 9))
    assert found["loss"] == pytest.approx(0.3)
    assert found["loss_stderr"] == pytest.approx(math.sqrt(sum((x - 0.3) ** 2 for x in [0] * 7 + [1] * 3) / 9 / 10))


def test_ties_go_to_the_first() -> None:
    assert argmax([1.0, 3.0, 3.0]) == 1
    assert argmax([-math.inf, -math.inf]) == 0
    found = metrics([[-1.0, -1.0], [-1.0, -1.0]], [0, 1], ["ab", "cd"])
    assert (found["acc"], found["acc_norm"], found["acc_bytes"]) == (0.5, 0.5, 0.5)
    # The same log-likelihood a character: the first again, although the second is longer.
    assert metrics([[-1.0, -2.0], [-1.0, -2.0]], [0, 0], ["a", "bc"])["acc_norm"] == 1.0


def test_what_is_left_of_a_tree_behind_a_prefix() -> None:
    """The same as the tree of what is left of the requests."""
    prefix = Prefix((-1, -2), [], "learned")
    requests = [
        Encoded((-1, -2, 5, *choice), tuple(range(2, 3 + len(choice))), (*choice, 0)) for choice in ((7, 8), (9,))
    ]
    tree, _ = grow(requests)
    assert tree.parents
    left = behind(prefix, tree)
    assert left == grow([behind(prefix, one) for one in requests])[0]
    assert (left.ids, left.parents) == ((5, 7, 8, 9), (-1, 0, 1, 0))


def test_the_divergence_from_a_teacher() -> None:
    """Likelihoods count up to a factor."""
    told, lls = torch.tensor([[0.5, 0.3, 0.2], [-3.0, -4.5, -2.0]], dtype=torch.float64)
    expected = torch.nn.functional.kl_div(lls.log_softmax(0), told, reduction="sum").item()
    assert divergence(told.log().tolist(), lls.tolist()) == pytest.approx(expected, rel=1e-9)
    assert divergence(told.log().tolist(), (told.log() - 7).tolist()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("where", ["auto", "disk", "memory", "off"])
def test_scores_of_the_base_are_kept(
    where: str, open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the disk, bit for bit; another model, and other questions, are asked for themselves."""
    base = open_base("llama-tied")
    pairs = [(prompt, choice) for prompt in PROMPTS for choice in CHOICES]
    encoded = encode_pairs(base.tokenizer, pairs, delimiter=" ", kind=base.anatomy.kind)
    asked = []
    scores = Requests.token_scores

    def spy(self: Requests) -> Any:
        asked.append(len(self.requests))
        return scores(self)

    monkeypatch.setattr(Requests, "token_scores", spy)
    with Trunk(base, 2) as trunk:
        true = Requests(trunk, in_rows(encoded)).token_scores()
        found = [Requests(trunk, in_rows(encoded)).kept_scores(where, "sha256:base") for _ in range(2)]
        for some in found:
            for (nats, likeliest), (told, greedy) in zip(some, true, strict=True):
                assert torch.equal(nats, told)
                assert torch.equal(likeliest, greedy)
        kept = where in ("auto", "disk")
        assert asked == [len(encoded)] * (2 if kept else 3)
        Requests(trunk, in_rows(encoded)).kept_scores(where, "sha256:other")
        Requests(trunk, in_rows(encoded[:4])).kept_scores(where, "sha256:base")
        turned = [Encoded(one.ids, one.rows, (0,) * len(one.labels), one.parents) for one in encoded]
        Requests(trunk, in_rows(turned)).kept_scores(where, "sha256:base")
    assert asked[-3:] == [len(encoded), 4, len(encoded)]
