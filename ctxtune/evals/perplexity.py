"""Perplexity by lm-evaluation-harness's rules: of answers, and of running text in windows.

For text of W words (split at white space) and Y UTF-8 bytes whose N tokens have the log-probabilities ll:
    perplexity = exp(-ll / N), of a token
    word perplexity = exp(-ll / W)    byte perplexity = exp(-ll / Y)    bits per byte = -ll / (Y ln 2)
Bits per byte can be compared between tokenizers. For answers: perplexity = exp(-mean ll of an answer); the
end-of-text token behind a free answer, which it learns, is a part of the loss alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ctxtune.data.hash import sha256_fields
from ctxtune.evals.items import Item

if TYPE_CHECKING:
    from collections.abc import Sequence


def answer_perplexities(lls: Sequence[float], tokens: int) -> dict[str, float]:
    """Of the log-probabilities of answers that have so many tokens together."""
    total = -sum(lls)
    return {"perplexity": _exp(total / len(lls)), "token_perplexity": _exp(total / tokens)}


def text_metrics(ll: float, words: int, num_bytes: int, tokens: int) -> dict[str, float]:
    """Of the log-probability of a whole text, in nats."""
    return {
        "tokens": tokens,
        "loss": -ll / tokens,
        "perplexity": _exp(-ll / tokens),
        "word_perplexity": _exp(-ll / max(1, words)),
        "byte_perplexity": _exp(-ll / max(1, num_bytes)),
        "bits_per_byte": -ll / max(1, num_bytes) / math.log(2),
    }


def window_items(lls: Sequence[float], tokens: Sequence[Sequence[int]]) -> list[Item]:
    """The windows of a running text as rows: `loss` is nats a token, and a window weighs as much as it has tokens."""
    return [
        Item(sha256_fields({"tokens": list(window)}), number, {"loss": -ll / len(window)}, {"ll": [ll]}, len(window))
        for number, (ll, window) in enumerate(zip(lls, tokens, strict=True), 1)
    ]


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
