"""Demonstrations that were tried on held-out rows, against trying them by hand, each whole text by itself."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.backend import prefix as prefix_file
from ctxtune.commands import asking as story
from ctxtune.data.shots import choose
from ctxtune.errors import DataError, RecipeError

from ..conftest import CHOICES
from .test_fewshot import ASKED, POOL, ask, by_hand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctxtune.backend.load import Base

__all__ = ["ask"]

Rows = list[dict[str, str]]
LABELS = [CHOICES.index(row["label"]) for row in POOL]


def likely(base: Base, shots: Sequence[dict[str, str]], held: Rows) -> float:
    return sum(by_hand(base, list(shots), row)[CHOICES.index(row["label"])] for row in held) / len(held)


def even(base: Base, shots: Sequence[dict[str, str]], held: Rows) -> float:
    lls = [by_hand(base, list(shots), row) for row in held]
    counts = Counter(one.index(max(one)) for one in lls)
    return -sum(count / len(held) * math.log(count / len(held)) for count in counts.values())


def shown(facts: dict[str, Any]) -> list[int]:
    """The lines of the pool that were shown, in their order."""
    return [int(where.rpartition(" ")[2]) for where in facts["shots"]]


@pytest.mark.parametrize(("order", "kind", "good"), [("best", "llama-tied", likely), ("global-e", "gpt2-tied", even)])
def test_the_order_is_the_best_of_all(
    order: str, kind: str, good: Callable[..., float], ask: Callable[..., Any], open_base: Callable[[str], Base]
) -> None:
    """All that are no demonstrations are held out, here."""
    found = shown(ask(kind, method__select="fixed", method__order=order))
    base = open_base(kind)
    tried = {lines: good(base, [POOL[line - 1] for line in lines], POOL[3:]) for lines in permutations((1, 2, 3))}
    assert tried[tuple(found)] == pytest.approx(max(tried.values()), abs=1e-5)
    assert max(tried.values()) - min(tried.values()) > 1e-3


def test_where_answers_are_written_the_right_one_is_tried(ask: Callable[..., Any]) -> None:
    given = {"method__select": "fixed", "method__order": "best"}
    written = {"data__choices": None, "score__metric": "exact", "generate__max_tokens": 2}
    assert shown(ask(**given, **written, asked=ASKED[:2])) == shown(ask(**given, asked=ASKED[:2]))


def test_influence_is_greedy_on_held_out_rows(ask: Callable[..., Any], open_base: Callable[[str], Base]) -> None:
    facts = ask(method__select="influence", method__shots=3, method__held_out=3)
    base = open_base("llama-tied")
    held = [POOL[place] for place in choose("balanced", LABELS, 3, 0)]
    left, chosen = [row for row in POOL if row not in held], []
    for _ in range(3):
        chosen.append(
            max((row for row in left if row not in chosen), key=lambda row: likely(base, [*chosen, row], held))
        )
    assert shown(facts) == [POOL.index(row) + 1 for row in chosen]


def test_influence_can_be_ordered_too(ask: Callable[..., Any]) -> None:
    given = {"method__select": "influence", "method__shots": 3, "method__held_out": 4}
    plain, best = ask(**given), ask(**given, method__order="best")
    assert sorted(shown(plain)) == sorted(shown(best))


def test_candidates_are_limited_and_of_the_seed(ask: Callable[..., Any]) -> None:
    given = {"method__select": "influence", "method__shots": 2, "method__candidates": 2, "method__held_out": 3}
    draws = {tuple(sorted(shown(ask(**given, method__seed=seed)))) for seed in range(4)}
    assert len(draws) > 1


def test_what_orders_begin_with_is_read_once(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six orders as many tokens are run as their tree has."""
    monkeypatch.setattr(story, "LEAST", 1)
    sets, run = [], []
    read = prefix_file._read

    def watched(trunk: Any, tokens: Sequence[int], before: Any = None, *rest: Any) -> Any:
        sets.append(tuple(tokens))
        run.append(len(tokens) - (len(before.tokens) if before is not None else 0))
        return read(trunk, tokens, before, *rest)

    monkeypatch.setattr(prefix_file, "_read", watched)
    ask(method__select="fixed", method__order="best", data__instruction="So:\n")
    assert len(set(sets[:6])) == 6
    assert len(sets) == 7  # the chosen one is read for the questions
    assert (
        sum(run[:6])
        == len({tokens[: end + 1] for tokens in sets[:6] for end in range(len(tokens))})
        < sum(map(len, sets[:6]))
    )


def test_a_set_that_does_not_fit_is_the_worst(ask: Callable[..., Any]) -> None:
    """It is tried without an error; what is chosen at last is refused as ever if it is too long."""
    long = {"text": " ".join(["dull"] * 40), "label": CHOICES[0]}
    given = {"pool": [*POOL[:5], long, long], "asked": ASKED[:1], "method__held_out": 2, "method__select": "influence"}
    assert max(shown(ask(**given, method__shots=2))) <= 5
    with pytest.raises(RecipeError, match=r"method\.shots: 4 demonstrations take"):
        ask(**given, method__shots=4)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            {"method__order": "global-e", "data__choices": "{{ all }}"},
            RecipeError,
            "choices of their own have no labels",
        ),
        ({"method__select": "knn", "method__order": "best"}, RecipeError, "select knn chooses for each"),
        (
            {"method__select": "fixed", "method__shots": 12, "method__order": "best"},
            DataError,
            "training rows are 11 beside one on which an order is tried",
        ),
        (
            {"method__select": "fixed", "method__order": "best", "pool": [*POOL[:3], POOL[0]]},
            DataError,
            "no training row is left",
        ),
        (
            {"method__select": "influence", "method__shots": 9},
            DataError,
            "training rows are 6 beside 6 that are held out",
        ),
    ],
)
def test_what_is_refused(change: dict[str, Any], error: type[Exception], said: str, ask: Callable[..., Any]) -> None:
    with pytest.raises(error, match=said):
        ask(**change)


def test_no_shots_need_no_trial(ask: Callable[..., Any]) -> None:
    plain = ask(method__shots=0)["scores"]
    for select, order in (("influence", "auto"), ("fixed", "best")):
        assert ask(method__shots=0, method__select=select, method__order=order, asked=ASKED)["scores"] == plain
