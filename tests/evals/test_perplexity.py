"""Perplexity against a loop over windows cut as lm-evaluation-harness cuts them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from ctxtune.backend.trunk import Trunk
from ctxtune.data.windows import encode_text_windows
from ctxtune.evals.choice import Requests
from ctxtune.evals.perplexity import answer_perplexities, text_metrics, window_items

from ..conftest import BAD, CONTEXT, GOOD, text_by_hand

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base

TEXT = "\n\n".join(f"Review {i}: {text}, ünd so on." for i, text in enumerate([*GOOD, *BAD] * 3))


@pytest.mark.parametrize("kind", ["llama-tied", "llama-untied", "gpt2-tied"])
@pytest.mark.parametrize("length", [CONTEXT, 17, 2, 1])
def test_windows_against_a_loop(kind: str, length: int, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    text = TEXT[: 40 * length + 60]
    windows = encode_text_windows(base.tokenizer, text, length)
    with Trunk(base) as trunk:
        found = sum(ll for ll, _ in Requests(trunk, [[one] for one in windows.windows]).loglikelihoods())
    assert found == pytest.approx(text_by_hand(base, text, length), rel=1e-6)
    assert windows.tokens == len(base.tokenizer(text, add_special_tokens=False)["input_ids"]) > 3 * length


@pytest.mark.parametrize("text", ["word", "two words"])
def test_a_text_shorter_than_a_window(text: str, open_base: Callable[[str], Base]) -> None:
    base = open_base("gpt2-tied")
    windows = encode_text_windows(base.tokenizer, text, CONTEXT)
    assert len(windows.windows) == 1
    with Trunk(base) as trunk:
        found = sum(ll for ll, _ in Requests(trunk, [[one] for one in windows.windows]).loglikelihoods())
    assert found == pytest.approx(text_by_hand(base, text, CONTEXT), rel=1e-6)


def test_units_of_text() -> None:
    # A model that gives each of 12 bytes the probability 1/8: 3 bits a byte.
    found = text_metrics(12 * math.log(1 / 8), words=3, num_bytes=12, tokens=6)
    assert found["bits_per_byte"] == pytest.approx(3.0)
    assert found["byte_perplexity"] == pytest.approx(8.0)
    assert found["word_perplexity"] == pytest.approx(8.0**4)
    assert found["loss"] == pytest.approx(2 * math.log(8))
    assert found["tokens"] == 6


def test_words_and_bytes_of_a_text(open_base: Callable[[str], Base]) -> None:
    windows = encode_text_windows(open_base("gpt2-tied").tokenizer, " Zwölf  Wörter\tsind\nes nicht ", CONTEXT)
    assert (windows.words, windows.num_bytes) == (5, 31)


def test_answers() -> None:
    found = answer_perplexities([-1.0, -3.0, -2.0], tokens=4)
    assert found == pytest.approx({"perplexity": math.exp(2.0), "token_perplexity": math.exp(6.0 / 4)})


def test_windows_as_rows() -> None:
    items = window_items([-8.0, -3.0], [(1, 2, 3, 4), (5, 6)])
    assert [(item.scores["loss"], item.weight, item.line) for item in items] == [(2.0, 4, 1), (1.5, 2, 2)]
    assert len({item.row for item in items} | {item.row for item in window_items([-1.0], [(1, 2, 3, 4)])}) == 2


def test_a_hopeless_model_overflows_nothing() -> None:
    assert text_metrics(-1e6, 1, 1, 1)["word_perplexity"] == math.inf
    assert answer_perplexities([-1e6, -1e6], 2)["perplexity"] == math.inf
