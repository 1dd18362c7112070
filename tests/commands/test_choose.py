"""Demonstrations near each question: which they are, that they are what the model reads, and that none gives itself away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctxtune.errors import RecipeError
from ctxtune.evals.answers import words

from ..backend.test_features import by_hand as states_by_hand
from ..conftest import CHOICES
from ..data.test_bm25 import lucene
from .test_fewshot import ASKED, POOL, ask, by_hand, question

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ctxtune.backend.load import Base

__all__ = ["ask"]


def by_words(row: dict[str, str], pool: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The pool without the row, the best by BM25 first."""
    scores = lucene(words(question(row)), [words(question(one)) for one in pool])
    order = sorted(range(len(pool)), key=lambda place: -scores[place])
    return [pool[place] for place in order if pool[place]["text"] != row["text"]]


def cosines(base: Base, rows: Sequence[dict[str, str]], pool: Sequence[dict[str, str]]) -> Any:
    """How near each row of the pool is to each row (Q, N), by transformers' hidden states."""
    known, asked = (states_by_hand(base, [question(one) for one in some]) for some in (pool, rows))
    known, asked = known - known.mean(0), asked - known.mean(0)
    return np.stack([[a @ k / np.linalg.norm(a) / np.linalg.norm(k) for k in known] for a in asked])


def lls(path: Path) -> list[list[float]]:
    return [json.loads(line)["said"]["ll"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("order", ["auto", "as-is"])
def test_bm25_shows_each_question_what_is_like_it(
    order: str, ask: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    """A question that is itself in the pool sees the next best; equal demonstrations are read once."""
    asked = [*ASKED, {**POOL[4], "id": 1}]
    facts = ask(asked=asked, scores=tmp_path / "items.jsonl", method__select="bm25", method__order=order)
    base, expected, sets = open_base("llama-tied"), [], set()
    for row in asked:
        shots = by_words(row, POOL)[:3]
        shots = shots if order == "as-is" else shots[::-1]
        sets.add(tuple(shot["text"] for shot in shots))
        expected.append(by_hand(base, shots, row))
    assert np.array(lls(tmp_path / "items.jsonl")) == pytest.approx(np.array(expected), abs=1e-4)
    assert facts["prefixes"] == len(sets)
    assert facts["asked_behind_fewer"] == 0


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "gemma3_text-tied"])
def test_knn_shows_what_the_model_finds_like_it(
    kind: str, ask: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    asked = [*ASKED, {**POOL[4], "id": 1}]
    ask(kind, asked=asked, scores=tmp_path / "items.jsonl", method__select="knn")
    base, expected = open_base(kind), []
    for row, near in zip(asked, cosines(base, asked, POOL), strict=True):
        ranked = [POOL[place] for place in np.argsort(-near) if POOL[place]["text"] != row["text"]]
        expected.append(by_hand(base, ranked[:3][::-1], row))
    assert np.array(lls(tmp_path / "items.jsonl")) == pytest.approx(np.array(expected), abs=1e-4)


def test_mmr_without_weight_of_the_others_is_knn(ask: Callable[..., Any], tmp_path: Path) -> None:
    found = []
    for select, weight in (("knn", 0.6), ("mmr", 1.0), ("mmr", 0.2)):
        ask(scores=tmp_path / "items.jsonl", method__select=select, method__mmr_lambda=weight)
        found.append(lls(tmp_path / "items.jsonl"))
    assert found[0] == found[1] != found[2]


def test_a_row_that_stands_twice_is_shown_once(ask: Callable[..., Any], tmp_path: Path) -> None:
    found = []
    for pool in (POOL, [*POOL[:6], POOL[0], *POOL, {**POOL[3], "id": 1}]):
        ask(pool=pool, scores=tmp_path / "items.jsonl", method__select="knn")
        found.append(lls(tmp_path / "items.jsonl"))
    assert found[0] == found[1]


def test_a_cluster_shares_what_is_nearest_to_all_of_it(
    ask: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    """One cluster: the nearest to the mean question, read once; a question that is one of them sees the next best."""
    base = open_base("llama-tied")
    ranked = [POOL[place] for place in np.argsort(-cosines(base, ASKED, POOL).mean(0))]
    facts = ask(scores=tmp_path / "items.jsonl", method__select="cluster", method__clusters=1)
    assert (facts["prefixes"], facts["asked_behind_fewer"]) == (1, 0)
    expected = [by_hand(base, ranked[:3][::-1], row) for row in ASKED]
    assert np.array(lls(tmp_path / "items.jsonl")) == pytest.approx(np.array(expected), abs=1e-4)

    asked = [ranked[1], ranked[1]]
    ranked = [POOL[place] for place in np.argsort(-cosines(base, asked, POOL).mean(0))]
    assert ranked[0] == asked[0]
    ask(asked=asked, scores=tmp_path / "items.jsonl", method__select="cluster", method__clusters=1)
    expected = [by_hand(base, ranked[1:4][::-1], asked[0])] * 2
    assert np.array(lls(tmp_path / "items.jsonl")) == pytest.approx(np.array(expected), abs=1e-4)


def test_clusters_are_fewer_than_questions(ask: Callable[..., Any]) -> None:
    facts = [ask(method__select="cluster", method__clusters=number) for number in (3, 3, 100)]
    assert facts[0]["scores"] == facts[1]["scores"]
    assert 1 < facts[0]["prefixes"] <= 3 < facts[2]["prefixes"]
    assert facts[2]["scores"] == pytest.approx(ask(method__select="knn")["scores"], abs=1e-5)


def test_equal_demonstrations_are_read_once(ask: Callable[..., Any]) -> None:
    asked = [{"text": text, "label": CHOICES[0]} for text in ("good fun", "fun good", "good, fun", "warm cold")]
    facts = ask(asked=asked, method__select="bm25", method__shots=2)
    assert facts["prefixes"] == 2
    assert len(facts["shots"]) == 4


def test_where_rows_are_short_fewer_are_shown(ask: Callable[..., Any]) -> None:
    facts = ask(pool=POOL[:3], asked=[POOL[1], ASKED[0]], method__select="bm25", method__shots=3)
    assert (facts["asked_behind_fewer"], facts["prefixes"]) == (1, 2)


def test_nothing_is_near_where_rows_are_drawn(ask: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match="order near-last asks for what is near, select random does not"):
        ask(method__select="random", method__order="near-last")
