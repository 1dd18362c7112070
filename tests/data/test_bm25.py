"""BM25 by its formula, written out."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctxtune.data.bm25 import Bm25
from ctxtune.evals.answers import words

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXTS = ["A fine film, a fine cast", "a dull film", "warm", "这部电影很好看", "这本书不好", ""]


def lucene(asked: Sequence[str], texts: Sequence[Sequence[str]]) -> list[float]:
    """The score of every text, each a list of its words."""
    found = []
    mean = sum(map(len, texts)) / len(texts)
    for text in texts:
        counts, score = Counter(text), 0.0
        for word in asked:
            holding = sum(word in other for other in texts)
            if holding:
                rare = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
                score += rare * counts[word] / (counts[word] + 1.2 * (0.25 + 0.75 * len(text) / mean))
        found.append(score)
    return found


@pytest.mark.parametrize("question", ["the fine film", "film film warm", "一部好电影", "nothing of it", ""])
def test_scores_are_those_of_the_formula(question: str) -> None:
    found = Bm25([words(text) for text in TEXTS]).scores(words(question))
    assert found == pytest.approx(lucene(words(question), [words(text) for text in TEXTS]), abs=1e-6)


def test_letters_of_chinese_are_words() -> None:
    assert int(np.argmax(Bm25([words(text) for text in TEXTS]).scores(words("好看的电影")))) == 3


@pytest.mark.parametrize("texts", [[[]], [[], []]])
def test_texts_without_words_are_all_alike(texts: list[list[str]]) -> None:
    assert Bm25(texts).scores(["film"]).tolist() == [0.0] * len(texts)
