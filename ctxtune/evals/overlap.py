"""BLEU, chrF and ROUGE, from the libraries whose figures are published: sacrebleu (Post 2018) and rouge-score.

    bleu      geometric mean of the precisions of 1 to 4 words, less where it is short (Papineni et al. 2002), 0 to 100
    chrf      F2 of runs of 1 to 6 letters (Popović 2015), 0 to 100
    rouge     F1 of words (rouge1), pairs of words (rouge2), the longest common subsequence (rougeL) (Lin 2004), 0 to 1

BLEU and chrF belong to all rows together: what matches is added up over the rows before it is divided. Their standard error
is the deviation of the score over draws of rows with replacement (Efron and Tibshirani 1993; Koehn 2004). A row by itself has
sentence_bleu, of the orders that it is long enough for, and sentence_chrf; by these two results are compared row by row.
ROUGE is the mean of the rows. Accepted answers are references: to BLEU all of them together, else the best one counts.

The signature says what a figure depends on. Both libraries are imported when they are asked for.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxtune.errors import RecipeError
from ctxtune.evals.answers import answer_scores
from ctxtune.evals.paired import resampled_means

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctxtune.evals.items import Item
    from ctxtune.recipe.written import Score

    RowScores = Callable[[str, Sequence[str]], dict[str, float]]

ROUGE = ("rouge1", "rouge2", "rougeL")


def row_scores(settings: Score) -> RowScores:
    """How a written answer is scored against those that are accepted: by every metric but the likelihood.

    Raises:
        RecipeError: the library is not installed.
    """
    if settings.metric == "rouge":
        return partial(_rouge, _rouge_scorer(settings))
    if settings.metric in ("bleu", "chrf"):
        name, metric = f"sentence_{settings.metric}", _sacrebleu(settings, alone=True)
        return lambda text, references: {name: metric.sentence_score(text, references).score}
    return partial(answer_scores, settings.metric)


def total_scores(items: Sequence[Item], settings: Score) -> tuple[dict[str, float], str | None]:
    """What belongs to all rows together, with its standard error, and the signature; nothing where rows are all there is."""
    if settings.metric == "rouge":
        return {}, _rouge_signature(settings)
    if settings.metric not in ("bleu", "chrf") or not items:
        return {}, None
    texts = [item.said["answer"] for item in items]
    accepted = [item.said["accepted"] for item in items]
    most = max(map(len, accepted))
    references = [[row[at] if at < len(row) else None for row in accepted] for at in range(most)]
    metric, name = _sacrebleu(settings), settings.metric
    score = metric.corpus_score(texts, references).score
    error = _error(metric, texts, references)
    return {name: score, f"{name}_stderr": error}, str(metric.get_signature())


def _error(metric: Any, texts: Sequence[str], references: Sequence[Sequence[str | None]]) -> float:
    """The bootstrap's standard error. sacrebleu's own holds every draw of every row in memory at once."""
    if len(texts) < 2:
        return math.nan
    counts = np.array(metric._extract_corpus_statistics(texts, references), np.float64)
    sums = np.rint(resampled_means(counts, np.ones(len(counts)), 0) * len(counts))
    return float(np.std([metric._compute_score_from_stats(draw).score for draw in sums.tolist()], ddof=1))


def _sacrebleu(settings: Score, alone: bool = False) -> Any:
    """The metric; `alone`: of one sentence, which may be too short for the highest orders."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise _missing(settings.metric, "sacrebleu") from error
    if settings.metric == "chrf":
        return CHRF()
    tokenize = None if settings.tokenize == "auto" else settings.tokenize
    return BLEU(tokenize=tokenize, effective_order=alone, force=True)


def _rouge_scorer(settings: Score) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _missing(settings.metric, "rouge-score") from error
    tokenizer = None if settings.tokenize == "auto" else _Tokens(settings)
    return RougeScorer(list(ROUGE), use_stemmer=settings.stem, tokenizer=tokenizer)


class _Tokens:
    """sacrebleu's tokens of a text in small letters, as rouge-score asks for them."""

    def __init__(self, settings: Score) -> None:
        self._metric = _sacrebleu(settings)

    def tokenize(self, text: str) -> list[str]:
        tokens: list[str] = self._metric.tokenizer(text.lower()).split()
        return tokens


def _rouge(scorer: Any, text: str, references: Sequence[str]) -> dict[str, float]:
    return {name: float(one.fmeasure) for name, one in scorer.score_multi(references, text).items()}


def _rouge_signature(settings: Score) -> str:
    from importlib.metadata import version

    tokens = "a-z0-9" if settings.tokenize == "auto" else f"{settings.tokenize}|sacrebleu:{version('sacrebleu')}"
    return f"stem:{'porter' if settings.stem else 'no'}|tok:{tokens}|rouge-score:{version('rouge-score')}"


def _missing(metric: str, library: str) -> RecipeError:
    return RecipeError(f"score.metric {metric} needs the library {library}", "pip install 'ctxtune[score]'")
