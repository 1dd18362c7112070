"""Several draws of demonstrations in one run, against runs of one draw each."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.errors import DataError, RecipeError

from . import test_fewshot
from .test_calibrated import MANY, items_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ask = test_fewshot.ask


@pytest.mark.parametrize("select", ["random", "balanced"])
def test_draws_are_what_runs_of_one_draw_give(select: str, ask: Callable[..., Any], tmp_path: Path) -> None:
    chosen = {"asked": MANY, "method__select": select, "method__calibrate": "domain"}
    # The words of `domain` are of the first seed for all draws; none, batch and pmi do not know of them.
    single = [ask(**chosen, method__seed=seed, scores=tmp_path / f"{seed}.jsonl") for seed in (4, 5, 6)]
    facts = ask(**chosen, method__seed=4, method__seeds=3, scores=tmp_path / "all.jsonl")
    assert [draw["seed"] for draw in facts["draws"]] == [4, 5, 6]
    for draw, one in zip(facts["draws"], single, strict=True):
        assert draw["shots"] == one["shots"]
        for name in ("none", "batch", "pmi"):
            assert draw["calibrations"][name] == pytest.approx(one["calibrations"][name], abs=1e-5)
        assert draw["scores"]["loss"] == pytest.approx(one["scores"]["loss"], abs=1e-5)
    assert facts["draws"][0]["calibrations"] == single[0]["calibrations"]
    accs = [one["calibrations"]["none"]["acc"] for one in single]
    mean = sum(accs) / 3
    over = facts["calibrations"]["none"]["spread"]
    assert over["mean"] == pytest.approx(mean) == pytest.approx(facts["calibrations"]["none"]["acc"])
    assert over["worst"] == min(accs)
    assert over["deviation"] == pytest.approx(math.sqrt(sum((acc - mean) ** 2 for acc in accs) / 2))
    assert facts["spread"]["acc"] == facts["calibrations"]["domain"]["spread"]
    assert facts["prefixes"] == 3
    check_rows(tmp_path, facts)


def check_rows(folder: Path, facts: dict[str, Any]) -> None:
    """Every row's scores are its means over the draws, and the error of the mean is that of these rows."""
    each = [items_of(folder / f"{seed}.jsonl") for seed in (4, 5, 6)]
    items = items_of(folder / "all.jsonl")
    for item, *rows in zip(items, *each, strict=True):
        assert item["scores"]["loss"] == pytest.approx(sum(row["scores"]["loss"] for row in rows) / 3, abs=1e-5)
        assert [said["ll"] for said in item["said"]["draws"]] == [
            pytest.approx(row["said"]["ll"], abs=1e-5) for row in rows
        ]
    means = [item["scores"]["acc"] for item in items]
    mean = sum(means) / len(means)
    error = math.sqrt(sum((one - mean) ** 2 for one in means) / (len(means) - 1) / len(means))
    assert (facts["scores"]["acc"], facts["scores"]["acc_stderr"]) == pytest.approx((mean, error))


def test_one_draw_has_no_spread(ask: Callable[..., Any]) -> None:
    facts = ask()
    assert not {"draws", "spread"} & facts.keys()
    assert "spread" not in facts["calibrations"]["none"]


def test_rows_count_that_every_draw_has_room_for(ask: Callable[..., Any]) -> None:
    """Long demonstrations leave room for fewer rows in some draws."""
    pool = [{"text": "good " * (1 + 4 * (at % 4 == 0)), "label": "negative"} for at in range(12)]
    asked = [{"text": "fine " * count, "label": "positive"} for count in range(1, 13)]
    facts = ask(
        pool=pool, asked=asked, method__select="random", method__shots=2, method__seeds=6, data__on_long="drop",
        data__max_length=56,
    )  # fmt: skip
    dropped = [draw["scores"]["dropped"] for draw in facts["draws"]]
    assert len(set(dropped)) > 1
    assert facts["scores"]["dropped"] == max(dropped)
    assert facts["scores"]["rows"] == 12 - max(dropped)
    with pytest.raises(DataError, match="all eval rows were too long"):
        ask(pool=pool, asked=asked[-1:], method__shots=2, method__seeds=6, data__on_long="drop", data__max_length=56)


@pytest.mark.parametrize("select", ["fixed", "bm25"])
def test_draws_need_chance(select: str, ask: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=f"seeds 2 asks for several draws, select {select} leaves nothing to chance"):
        ask(method__select=select, method__seeds=2)


def test_a_note_is_given_once(ask: Callable[..., Any]) -> None:
    notes: list[str] = []
    ask(say=notes.append, method__seeds=3, method__calibrate="batch")
    assert len([note for note in notes if "batch calibration of 2" in note]) == 1


def test_the_table_says_how_far_draws_lie_apart(ask: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    from ctxtune.cli import console
    from ctxtune.cli.fewshot import _table

    facts = json.loads(json.dumps(ask(method__seeds=2)))
    console.emit(facts, False, lambda: _table(facts))
    said = capsys.readouterr().out
    assert f"worst of the draws {facts['spread']['acc']['worst']:.4f}, deviation" in said
    assert "acc, contextual calibration" in said
    assert "balanced, 2 draws" in said
    assert f"{facts['calibrations']['none']['ece']:.4f}" in said
    assert "what was answered (across)" in said
    odd = {**facts, "confusion": {"labels": ["[b]", "c"], "counts": [[7, 0], [0, 5]]}}
    console.emit(odd, False, lambda: _table(odd))
    assert "[b]" in capsys.readouterr().out  # no markup
    many = {**facts, "confusion": {"labels": ["a"] * 11, "counts": [[0] * 11] * 11}}
    console.emit(many, False, lambda: _table(many))
    assert "what was answered" not in capsys.readouterr().out


def test_written_answers_have_draws_too(ask: Callable[..., Any]) -> None:
    written = {"data__choices": None, "score__metric": "f1", "method__select": "random"}
    facts = ask(**written, method__seeds=2)
    single = [ask(**written, method__seed=seed) for seed in (0, 1)]
    assert facts["spread"]["f1"]["worst"] == min(one["scores"]["f1"] for one in single)
    assert facts["scores"]["unfinished"] == max(one["scores"]["unfinished"] for one in single)
    assert facts["calibrations"] == {}
    assert facts["confusion"] is None


def test_a_corpus_score_is_the_mean_over_the_draws(
    ask: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BLEU belongs to the rows of a draw together, not to each of them."""
    from ctxtune.cli import console
    from ctxtune.cli.fewshot import _table

    written = {"data__choices": None, "score__metric": "chrf", "method__select": "random"}
    facts = ask(**written, method__seeds=2)
    single = [ask(**written, method__seed=seed) for seed in (0, 1)]
    each = [one["scores"]["chrf"] for one in single]
    assert facts["scores"]["chrf"] == facts["spread"]["chrf"]["mean"] == pytest.approx(sum(each) / 2)
    assert facts["spread"]["chrf"]["worst"] == min(each)
    assert facts["spread"].keys() == {"chrf", "sentence_chrf"}
    assert facts["signature"] == single[0]["signature"]
    console.emit(facts, False, lambda: _table(facts))
    said = capsys.readouterr().out
    assert f"{facts['scores']['chrf']:.4f} ± " in said
    assert facts["signature"] in said


def test_confusion_and_error_are_those_of_the_rows(ask: Callable[..., Any], tmp_path: Path) -> None:
    facts = ask(asked=MANY, scores=tmp_path / "items.jsonl", method__calibrate="pmi")
    counts, items = [[0, 0], [0, 0]], items_of(tmp_path / "items.jsonl")
    for item in items:
        scores = item["said"]["calibrated"]["pmi"]
        counts[item["said"]["gold"]][scores.index(max(scores))] += 1
    assert facts["confusion"] == {"labels": ["negative", "positive"], "counts": counts}
    assert facts["scores"]["acc"] == pytest.approx((counts[0][0] + counts[1][1]) / 48)
    for name, found in facts["calibrations"].items():
        rows = [[math.exp(score) for score in item["said"]["calibrated"][name]] for item in items]
        sure = [max(row) / sum(row) for row in rows]
        gaps = [0.0] * 15
        for one, item in zip(sure, items, strict=True):
            gaps[math.ceil(one * 15) - 1] += item["scores"][f"acc_{name}"] - one
        assert found["ece"] == pytest.approx(sum(map(abs, gaps)) / 48)


def test_draws_are_counted_together(ask: Callable[..., Any]) -> None:
    single = [ask(asked=MANY, method__seed=seed) for seed in (0, 1)]
    facts = ask(asked=MANY, method__seeds=2)
    both = [one["confusion"]["counts"] for one in single]
    assert facts["confusion"]["counts"] == [
        [a + b for a, b in zip(*rows, strict=True)] for rows in zip(*both, strict=True)
    ]
    errors = [one["calibrations"]["none"]["ece"] for one in single]
    assert facts["calibrations"]["none"]["ece"] == pytest.approx(sum(errors) / 2)


def test_choices_of_the_row_s_own_have_an_error_and_no_matrix(ask: Callable[..., Any]) -> None:
    own = [{"text": row["text"], "label": 0, "own": [row["label"], "x"]} for row in MANY]
    facts = ask(asked=own, pool=own, data__choices="{{ own }}")
    assert facts["confusion"] is None
    assert 0 < facts["calibrations"]["none"]["ece"] < 1
