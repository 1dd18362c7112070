"""Perplexity by lm-evaluation-harness's rules: of answers, and of running text in windows.

For text of W words (split at white space) and Y UTF-8 bytes whose tokens have the log-probabilities ll:
    word perplexity = exp(-ll / W)    byte perplexity = exp(-ll / Y)    bits per byte = -ll / (Y ln 2)
Bits per byte can be compared between tokenizers. For answers: perplexity = exp(-mean ll of an answer), and the share of
answers that greedy decoding gives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ctxtune.evals.choice import mean_and_error

if TYPE_CHECKING:
    from collections.abc import Sequence


def answer_metrics(lls: Sequence[tuple[float, bool]], tokens: int) -> dict[str, float]:
    """Of (ll, greedy) for each answer, and the number of answer tokens: loss in nats an answer, perplexities, accuracy."""
    loss, loss_error = mean_and_error([-ll for ll, _ in lls])
    greedy, greedy_error = mean_and_error([float(hit) for _, hit in lls])
    total = -sum(ll for ll, _ in lls)
    return {
        "rows": len(lls),
        "loss": loss,
        "loss_stderr": loss_error,
        "perplexity": _exp(loss),
        "token_perplexity": _exp(total / tokens),
        "greedy_acc": greedy,
        "greedy_acc_stderr": greedy_error,
    }


def text_metrics(ll: float, words: int, num_bytes: int, tokens: int) -> dict[str, float]:
    """Of the log-probability of a whole text, in nats."""
    return {
        "tokens": tokens,
        "loss": -ll / tokens,
        "word_perplexity": _exp(-ll / max(1, words)),
        "byte_perplexity": _exp(-ll / max(1, num_bytes)),
        "bits_per_byte": -ll / max(1, num_bytes) / math.log(2),
    }


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
