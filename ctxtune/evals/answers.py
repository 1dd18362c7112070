"""Scores of written answers against what was expected: exact match, overlap of words, equal numbers.

    exact     1 where the normalised texts are the same: lower case, no punctuation, no English articles, single spaces
    f1        2 P R / (P + R) of the words that both have, each as often as the rarer use of it; a Chinese, Japanese or Thai
              letter is a word of its own
    number    1 where the last number is the same: behind `####` if that stands there (GSM8K), without separators of thousands

Of several accepted answers the best counts. exact and f1 are those of SQuAD (Rajpurkar et al. 2016; 2018 for empty answers),
with the punctuation and the letters of all languages as in MLQA (Lewis et al. 2020); number is that of GSM8K (Cobbe et al.
2021), taken from free text as lm-evaluation-harness's `flexible-extract` does.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# Scripts that are written without spaces between words: Thai, Lao, kana, ideographs.
_UNSPACED = re.compile("([\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
# A sign belongs to the number where no number or word stands before it: 10-5 ends in 5.
_NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z_)])[-\u2212])?[$\u20ac\u00a3]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
)


def normalise(text: str) -> str:
    """Lower case, without punctuation and articles, with single spaces."""
    bare = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact(text: str, reference: str) -> float:
    """Whether both are the same when normalised."""
    return float(normalise(text) == normalise(reference))


def f1(text: str, reference: str) -> float:
    """The harmonic mean of precision and recall over words."""
    said, wanted = words(text), words(reference)
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


def words(text: str) -> list[str]:
    """The normalised text's words."""
    return _UNSPACED.sub(r" \1 ", normalise(text)).split()


def number(text: str, reference: str) -> float:
    """Whether the last number of both is the same."""
    said, wanted = last_number(text), last_number(reference)
    return float(said is not None and said == wanted)


def last_number(text: str) -> Decimal | None:
    """The number behind the last `####`, else the last one of the text."""
    _, mark, behind = text.rpartition("####")
    marked = _NUMBER.search(behind) if mark else None
    found = [marked.group()] if marked else _NUMBER.findall(text)
    return Decimal(re.sub(r"[^0-9.-]", "", found[-1].replace("\u2212", "-"))) if found else None


# What is scored under each name of `score.metric`: f1 is given with the stricter exact match beside it, as SQuAD does.
METRICS: dict[str, dict[str, Callable[[str, str], float]]] = {
    "exact": {"exact": exact},
    "f1": {"f1": f1, "exact": exact},
    "number": {"number": number},
}


def answer_scores(metric: str, text: str, references: Sequence[str]) -> dict[str, float]:
    """The scores of a written answer, each against the reference that suits it best."""
    return {name: max(rule(text, one) for one in references) for name, rule in METRICS[metric].items()}


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")
