"""Scores of written answers: SQuAD's own evaluation written out, GSM8K's numbers, and what is right in Chinese."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from ctxtune.evals.answers import answer_scores, exact, f1, last_number, normalise, number, words

PIECES = [
    "the", "The", "a", "an", "An", "Paris", "paris,", "Denver", "Broncos", "theatre", "a.k.a.", "1990s", "U.S.", "--", "'s",
    "(the)", "24-10", "  ", "\t", "\n", "and", "Anne", "$5", "co-op", "!", "AFC",
]  # fmt: skip


def squad_normalise(text: str) -> str:
    """`normalize_answer` of SQuAD's evaluate-v1.1.py and evaluate-v2.0.py."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(prediction: str, truth: str) -> float:
    """`compute_f1` of evaluate-v2.0.py."""
    gold, said = squad_normalise(truth).split(), squad_normalise(prediction).split()
    same = sum((Counter(gold) & Counter(said)).values())
    if len(gold) == 0 or len(said) == 0:
        return float(gold == said)
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def test_english_is_scored_as_squad_does() -> None:
    draw = random.Random(0)
    partly = 0
    for _ in range(2000):
        said, wanted = (" ".join(draw.choices(PIECES, k=draw.randrange(6))) for _ in range(2))
        assert normalise(said) == squad_normalise(said)
        assert f1(said, wanted) == pytest.approx(squad_f1(said, wanted))
        assert exact(said, wanted) == float(squad_normalise(said) == squad_normalise(wanted))
        partly += 0 < squad_f1(said, wanted) < 1
    assert partly > 200


@pytest.mark.parametrize(("said", "wanted", "overlap"), [
    ("The Denver Broncos!", "denver broncos", 1.0), ("Denver", "Denver Broncos", 2 / 3), ("no no no", "no", 0.5),
    ("theatre", "atre", 0.0), ("", "the", 1.0), ("", "yes", 0.0), ("...", "yes", 0.0),
])  # fmt: skip
def test_overlap_of_words(said: str, wanted: str, overlap: float) -> None:
    assert f1(said, wanted) == pytest.approx(overlap)
    assert f1(wanted, said) == pytest.approx(overlap)


def test_punctuation_of_all_languages() -> None:
    assert exact("«Größe»", "größe") == 1
    assert exact("“Paris”—maybe", "paris maybe") == 0  # no space where none was
    assert exact("北京。", "北京") == 1


def test_letters_are_words_where_nothing_stands_between_words() -> None:
    assert words("在北京 IBM 公司") == ["在", "北", "京", "ibm", "公", "司"]
    assert f1("在北京市", "北京") == pytest.approx(2 * (2 / 4) * 1 / (2 / 4 + 1))
    assert f1("東京タワー", "東京") > 0
    assert words("서울 특별시") == ["서울", "특별시"]  # Korean puts spaces


@pytest.mark.parametrize(("text", "found"), [
    ("She has 5 + 7 = 12 apples.", "12"), ("#### 72", "72"), ("so 3 and 4\n#### 1,234,567 dollars, 8 each", "1234567"),
    ("it costs $1,299.50", "1299.50"), ("-3", "-3"), ("x = -3.5.", "-3.5"), ("10-5", "5"), ("(4)-2", "2"), ("−7", "-7"),
    ("-$20", "-20"), ("$-20", "-20"), (".5", "0.5"), ("50%", "50"), ("1, 2, 3", "3"), ("12,34", "34"), ("007", "7"),
    ("#### none, but 6", "6"), ("6 #### none", "6"), ("1 #### 2 #### 3 4", "3"), ("3.14.", "3.14"), ("1,000,00", "0"),
])  # fmt: skip
def test_the_last_number(text: str, found: str) -> None:
    assert last_number(text) == Decimal(found)


def test_numbers_are_compared_as_numbers() -> None:
    assert number("The answer is 72.00.", "48 + 24 = 72\n#### 72") == 1
    assert number("1,000", "#### 1000") == 1
    assert number("72.01", "72") == 0
    assert number("no idea", "72") == 0
    assert number("no idea", "none") == 0
    assert number("0.1", "0.10000000000000000001") == 0


def test_long_texts_are_read_in_no_time() -> None:
    for text in ("1" * 100_000, "1," * 50_000, "#" * 100_000 + "1", "-" * 100_000, "1." * 50_000, "a an the " * 20_000):
        answer_scores("number", text, ["1"])
        answer_scores("f1", text, ["1"])


@pytest.mark.parametrize(("metric", "scores"), [
    ("exact", {"exact": 1.0}), ("f1", {"f1": 1.0, "exact": 1.0}), ("number", {"number": 0.0}),
])  # fmt: skip
def test_the_best_of_several_answers_counts(metric: str, scores: dict[str, Any]) -> None:
    assert answer_scores(metric, "The City of Light", ["Paris", "city of light", "Lutetia"]) == scores
    assert answer_scores("f1", "city", ["Paris", "city of light"]) == {"f1": 0.5, "exact": 0.0}
