"""Virtual tokens behind what is asked: told as words, and from kept contexts, against the model's own forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.backend.feed import Feed, check_kept
from ctxtune.backend.prefix import embedding_of
from ctxtune.backend.spoken import Spoken
from ctxtune.backend.trunk import Trunk
from ctxtune.data.encode import Encoded
from ctxtune.evals.choice import Requests

from .test_prefix import CAUSAL_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base

ASKED = [(5, 6, 7, 8, 9, 10, 11, 12, 13), (9, 8, 7), (21, 5, 30, 31, 32, 33), (40,)]
REAL = (17, 18, 19)
VIRTUAL = (-1, -2, -3)


def examples(suffix: tuple[int, ...]) -> list[Encoded]:
    """Questions of several lengths, and answers of one, two or three tokens."""
    done = []
    for at, asked in enumerate(ASKED):
        answer = (14, 15, 16)[: 1 + at % 3]
        first = len(asked) + len(suffix) - 1
        rows = tuple(range(first, first + len(answer)))
        done.append(Encoded((*asked, *suffix, *answer[:-1]), rows, answer))
    return done


def told(base: Base) -> Spoken:
    """The embedded tokens REAL, as vectors."""
    vectors = embedding_of(base.model)(torch.tensor(REAL)).detach()
    return Spoken(base.model, lambda: vectors)


@pytest.mark.parametrize("kind", CAUSAL_KINDS)
def test_vectors_of_words_say_what_the_words_say(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    ids = torch.tensor([[*ASKED[0], *REAL, 14]])
    virtual = torch.tensor([[*ASKED[0], *VIRTUAL, 14]])
    spoken = told(base)
    with torch.no_grad():
        words = base.model(input_ids=ids).logits
        spoken.on()
        assert torch.equal(base.model(input_ids=virtual).logits, words)
        assert torch.equal(base.model(input_ids=ids).logits, words)
        spoken.off()
        spoken.off()
        assert not embedding_of(base.model)._forward_hooks


@pytest.mark.parametrize("kind", CAUSAL_KINDS)
def test_from_kept_contexts_as_from_the_whole_text(kind: str, open_base: Callable[[str], Base]) -> None:
    """Final states and the gradient for the vectors; padded, and each example alone."""
    base = open_base(kind)
    base.model.double()
    vectors = embedding_of(base.model)(torch.tensor(REAL)).detach().requires_grad_()
    Spoken(base.model, lambda: vectors).on()
    every = range(len(ASKED))
    with Trunk(base) as trunk:
        plain, kept = (Feed(trunk, examples(VIRTUAL), suffix=len(VIRTUAL)) for _ in range(2))
        assert kept.keep("memory", "mark") is not None
        assert check_kept(kept) < 1e-6  # what is kept is kept as float32
        with torch.no_grad():
            weights = torch.randn_like(plain.hidden(every))
        found = []
        for feed in (plain, kept):
            (feed.hidden(every) * weights).sum().backward()
            found.append(vectors.grad)
            vectors.grad = None
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5 * float(found[0].abs().max()))


def test_only_the_tails_are_run(open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    base = open_base("llama-tied")
    told(base).on()
    seen = []
    with Trunk(base) as trunk, torch.no_grad():
        feed = Feed(trunk, examples(VIRTUAL), suffix=len(VIRTUAL))
        feed.keep("memory", "mark")
        forward = trunk.backbone.forward
        monkeypatch.setattr(
            trunk.backbone,
            "forward",
            lambda **given: (seen.append(tuple(given["input_ids"].shape)), forward(**given))[1],
        )
        feed.hidden(range(len(ASKED)))
    assert seen == [(4, len(VIRTUAL) + 2)]


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "gemma3_text-tied", "qwen3-sliding-tied"])
def test_choices_branch_behind_a_suffix(kind: str, open_base: Callable[[str], Base]) -> None:
    """Choices of several tokens, as one tree behind a kept context, score as each alone."""
    base = open_base(kind)
    told(base).on()

    def groups(suffix: tuple[int, ...]) -> list[list[Encoded]]:
        return [
            [
                Encoded(
                    (*asked, *suffix, *answer[:-1]), tuple(range(len(asked) + 2, len(asked) + 2 + len(answer))), answer
                )
                for answer in ((14, 15, 16), (14, 20), (22,))
            ]
            for asked in ASKED
        ]

    with Trunk(base) as trunk:
        requests = Requests(trunk, groups(VIRTUAL), suffix=len(VIRTUAL))
        assert requests.feed.keep("memory", "mark") is not None
        found = [nats for nats, _ in requests.loglikelihoods()]
        expected = [Requests(trunk, [[one]]).loglikelihoods()[0][0] for group in groups(REAL) for one in group]
    assert found == pytest.approx(expected, abs=1e-4)


def test_kept_contexts_are_found_again(open_base: Callable[[str], Base], tmp_path: Path) -> None:
    """They belong to the questions and the model, whatever stands behind them."""
    base = open_base("llama-tied")
    told(base).on()
    with Trunk(base) as trunk:
        first = Feed(trunk, examples(VIRTUAL), suffix=3).keep("disk", "mark")
        again = Feed(trunk, examples(VIRTUAL[:1]), suffix=1).keep("disk", "mark")
        other = Feed(trunk, examples(VIRTUAL), suffix=3).keep("disk", "other")
    assert [one and one.place for one in (first, again, other)] == ["disk", "kept", "disk"]
    assert first is not None
    assert again is not None
    assert first.digest == again.digest
