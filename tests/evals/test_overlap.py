"""BLEU, chrF and ROUGE against sacrebleu and rouge-score called by hand, in each of their own ways."""

from __future__ import annotations

import builtins
import math
import random
from typing import Any

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from ctxtune.errors import RecipeError
from ctxtune.evals.items import Item, summarise
from ctxtune.evals.overlap import row_scores, total_scores
from ctxtune.recipe.written import Score

ENGLISH = [
    "a",
    "two",
    "dog",
    "dogs",
    "are",
    "running",
    "over",
    "green",
    "fields,",
    "The",
    "man's",
    "hat",
    "isn't",
    "red.",
]
CHINESE = "一只狗在草地上跑,两个男孩踢足球。A4 纸"


def corpus(words: Any, between: str, rows: int = 40) -> tuple[list[str], list[list[str]]]:
    """Texts, each with one to three answers that are somewhat like it; one text is empty."""
    draw = random.Random(1)
    right = [
        [between.join(draw.choices(words, k=draw.randint(2, 12))) for _ in range(draw.randint(1, 3))]
        for _ in range(rows)
    ]
    texts = []
    for answers in right:
        said = draw.choice(answers).split(between) if between else list(draw.choice(answers))
        texts.append(between.join(draw.choice(words) if draw.random() < 0.3 else word for word in said))
    return ["", *texts[1:]], right


def scored(texts: list[str], right: list[list[str]], settings: Score) -> list[Item]:
    rule = row_scores(settings)
    return [
        Item(str(at), at, rule(text, answers), {"text": text, "answer": text, "accepted": answers})
        for at, (text, answers) in enumerate(zip(texts, right, strict=True))
    ]


def streams(right: list[list[str]]) -> list[list[str | None]]:
    """References as sacrebleu takes them: all first answers, all second ones, ..."""
    return [[row[at] if at < len(row) else None for row in right] for at in range(3)]


@pytest.mark.parametrize(("tokenize", "words", "between"), [
    ("auto", ENGLISH, " "), ("13a", ENGLISH, " "), ("intl", ENGLISH, " "), ("none", ENGLISH, " "), ("zh", CHINESE, ""),
    ("char", CHINESE, ""),
])  # fmt: skip
def test_bleu_is_sacrebleu_s(tokenize: str, words: Any, between: str) -> None:
    texts, right = corpus(words, between)
    settings = Score(metric="bleu", tokenize=tokenize)
    items = scored(texts, right, settings)
    own = None if tokenize == "auto" else tokenize
    metric = sacrebleu.BLEU(tokenize=own, force=True)
    total, signature = total_scores(items, settings)
    assert total["bleu"] == metric.corpus_score(texts, streams(right)).score
    assert 5 < total["bleu"] < 90
    assert signature == str(metric.get_signature())
    assert f"|tok:{own or '13a'}|" in signature
    assert "nrefs:var" in signature
    for item, text, answers in zip(items, texts, right, strict=True):
        by_hand = sacrebleu.sentence_bleu(text, answers, tokenize=own or "13a").score
        assert item.scores == {"sentence_bleu": by_hand}
    # Half of the 95 % interval of sacrebleu's own bootstrap, in float32 and of 1,000 draws, is about two deviations.
    again = metric.corpus_score(texts, streams(right), n_bootstrap=1000)
    assert total["bleu_stderr"] == pytest.approx(again._ci / 1.96, rel=0.1)


def test_chrf_is_sacrebleu_s() -> None:
    texts, right = corpus(ENGLISH, " ")
    items = scored(texts, right, Score(metric="chrf"))
    metric = sacrebleu.CHRF()
    total, signature = total_scores(items, Score(metric="chrf"))
    assert total["chrf"] == metric.corpus_score(texts, streams(right)).score
    assert signature == str(metric.get_signature())
    assert "nc:6|nw:0" in signature
    for item, text, answers in zip(items, texts, right, strict=True):
        assert item.scores == {"sentence_chrf": sacrebleu.sentence_chrf(text, answers).score}
    again = metric.corpus_score(texts, streams(right), n_bootstrap=1000)
    assert total["chrf_stderr"] == pytest.approx(again._ci / 1.96, rel=0.1)


@pytest.mark.parametrize("stem", [False, True])
def test_rouge_is_rouge_score_s(stem: bool) -> None:
    texts, right = corpus(ENGLISH, " ")
    items = scored(texts, right, Score(metric="rouge", stem=stem))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stem)
    for item, text, answers in zip(items, texts, right, strict=True):
        by_hand = [scorer.score(answer, text) for answer in answers]
        best = {name: max(one[name].fmeasure for one in by_hand) for name in by_hand[0]}
        assert item.scores == pytest.approx(best)
    total, signature = total_scores(items, Score(metric="rouge", stem=stem))
    assert total == {}
    assert signature is not None
    assert signature.startswith(f"stem:{'porter' if stem else 'no'}|tok:a-z0-9|rouge-score:")
    found = summarise(items)
    assert found["rougeL"] == pytest.approx(np.mean([item.scores["rougeL"] for item in items]))
    assert 0.2 < found["rougeL"] < 1


def test_stems_are_those_of_porter() -> None:
    assert row_scores(Score(metric="rouge"))("dogs running", ["dog runs"])["rouge1"] == 0
    assert row_scores(Score(metric="rouge", stem=True))("dogs running", ["dog runs"])["rouge1"] == 1


def test_rouge_of_chinese_takes_sacrebleu_s_words() -> None:
    assert set(row_scores(Score(metric="rouge"))("一只狗", ["一只狗"]).values()) == {0.0}
    rule = row_scores(Score(metric="rouge", tokenize="zh"))
    assert rule("一只狗", ["一只狗"]) == {"rouge1": 1, "rouge2": 1, "rougeL": 1}
    # 狗 and 跑 of three and of four; the longest common subsequence is one of them.
    assert rule("跑的狗", ["狗在A跑"]) == pytest.approx({"rouge1": 4 / 7, "rouge2": 0, "rougeL": 2 / 7})
    assert rule("Dog", ["dog"])["rouge1"] == 1
    _, signature = total_scores([], Score(metric="rouge", tokenize="zh"))
    assert f"stem:no|tok:zh|sacrebleu:{sacrebleu.__version__}|" in str(signature)


def test_what_counts_is_the_extracted_answer() -> None:
    said = {"text": "So: a red hat.", "answer": "a red hat", "accepted": ["a red hat"]}
    settings = Score(metric="bleu", extract="So: (.*)[.]")
    rows = [Item("0", 1, {"sentence_bleu": 100.0}, said)] * 2
    assert total_scores(rows, settings)[0]["bleu"] == pytest.approx(0)  # no row has four words
    rows = [Item("0", 1, {}, {**said, "answer": "one red hat here", "accepted": ["one red hat here"]})] * 2
    assert total_scores(rows, settings)[0] == {"bleu": pytest.approx(100), "bleu_stderr": pytest.approx(0)}


def test_the_error_of_one_row_is_unknown() -> None:
    items = scored(["a red hat on a man"], [["a red hat on a dog"]], Score(metric="bleu"))
    total, _ = total_scores(items, Score(metric="bleu"))
    assert total["bleu"] > 0
    assert math.isnan(total["bleu_stderr"])


@pytest.mark.parametrize(
    ("metric", "library"), [("bleu", "sacrebleu"), ("chrf", "sacrebleu"), ("rouge", "rouge-score")]
)
def test_a_library_that_is_not_there_is_named(metric: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in ("sacrebleu", "rouge_score"):
            raise ImportError(name)
        return there(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RecipeError, match=f"score.metric {metric} needs the library {library}") as told:
        row_scores(Score(metric=metric))
    assert told.value.hint == "pip install 'ctxtune[score]'"


def test_stems_are_of_words_that_rouge_score_finds() -> None:
    with pytest.raises(ValueError, match="stem cuts the words of tokenize auto, not those of zh"):
        Score(metric="rouge", tokenize="zh", stem=True)
