"""Calibrations of a few-shot run, from whole texts through plain transformers and from probabilities by hand."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctxtune.data.content_free import NOTHING, domain_rows
from ctxtune.data.read import Row
from ctxtune.data.render import compile_template
from ctxtune.data.shots import choose
from ctxtune.errors import DataError, RecipeError
from ctxtune.evals.shares import estimated_shares

from ..conftest import CHOICES
from . import test_fewshot
from .test_fewshot import ASKED, POOL, PROMPT, WORDS, by_hand

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base

ask = test_fewshot.ask
MANY = [
    {"text": f"{a} {b}", "label": CHOICES[(i + j) % 2]} for i, a in enumerate(WORDS) for j, b in enumerate(WORDS[:4])
]


def items_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def shares(lls: list[float]) -> list[float]:
    most = max(lls)
    return [math.exp(ll - most) / sum(math.exp(other - most) for other in lls) for ll in lls]


def mean_shares(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*map(shares, rows), strict=True)]


def test_every_calibration_against_whole_texts(
    ask: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    facts = ask(asked=MANY, scores=tmp_path / "items.jsonl", method__select="fixed", method__calibrate="domain")
    base, shown = open_base("llama-tied"), POOL[:3]
    said = [by_hand(base, shown, row) for row in MANY[:3]]
    rows = [Row(dict(row), "asked.jsonl", 1) for row in MANY]
    words = [str(row.fields["text"]) for row in domain_rows(rows, compile_template(PROMPT, "data.prompt"), 0)]
    free = {
        "contextual": mean_shares([by_hand(base, shown, {"text": text}) for text in NOTHING]),
        "domain": mean_shares([by_hand(base, shown, {"text": text}) for text in words]),
    }
    items = items_of(tmp_path / "items.jsonl")
    assert len(items) == len(MANY) == 48
    mean = mean_shares([item["said"]["ll"] for item in items])
    premise = shares(by_hand_bare(base))
    for item, lls in zip(items, said, strict=False):
        p = shares(lls)
        expected = {
            "none": [math.log(a) for a in p],
            **{name: [math.log(a / b / 2) for a, b in zip(p, base_, strict=True)] for name, base_ in free.items()},
            "batch": [math.log(a) - 48 / 50 * math.log(2 * b) for a, b in zip(p, mean, strict=True)],
            "pmi": [math.log(a / b / 2) for a, b in zip(p, premise, strict=True)],
        }
        assert item["said"]["calibrated"] == {name: pytest.approx(each, abs=1e-4) for name, each in expected.items()}
        assert item["scores"]["acc"] == item["scores"]["acc_domain"]
    for name, found in facts["calibrations"].items():
        hits = [item["said"]["calibrated"][name] for item in items]
        gold = [item["said"]["gold"] for item in items]
        right = [float(each.index(max(each)) == g) for each, g in zip(hits, gold, strict=True)]
        assert found["acc"] == pytest.approx(sum(right) / 48), name
    assert facts["scores"]["acc"] == facts["calibrations"]["domain"]["acc"]
    assert facts["scores"]["rows"] == 48
    assert facts["label_shares"] is None


def by_hand_bare(base: Base) -> list[float]:
    """Of the choices behind what the prompt leaves behind its field, no demonstration before it."""
    import torch

    found = []
    for choice in CHOICES:
        start, whole = len(base.tokenizer("=")["input_ids"]), base.tokenizer(f"= {choice}")["input_ids"]
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        found.append(sum(float(logits[at - 1, whole[at]]) for at in range(start, len(whole))))
    return found


def test_none_leaves_acc_as_it_is_and_one_pass_gives_all(ask: Callable[..., Any]) -> None:
    plain = ask(asked=MANY)
    found = {name: ask(asked=MANY, method__calibrate=name) for name in ("contextual", "batch", "pmi")}
    assert list(plain["calibrations"]) == ["none", "contextual", "batch", "pmi"]
    assert plain["scores"]["acc"] == plain["calibrations"]["none"]["acc"]
    for name, facts in found.items():  # what batch takes for granted is checked against random words
        assert ("domain" in facts["calibrations"]) is (name == "batch")
        for key, numbers in plain["calibrations"].items():  # rows that are asked beside others: float32's rounding
            assert facts["calibrations"][key] == pytest.approx(numbers, abs=1e-6)
        assert facts["scores"]["acc"] == plain["calibrations"][name]["acc"]
        assert facts["scores"]["acc_norm"] == plain["scores"]["acc_norm"]
        assert facts["scores"]["loss"] == pytest.approx(
            plain["scores"]["loss"], abs=1e-5
        )  # other rows are asked beside it


def test_a_prior_moves_the_answers(ask: Callable[..., Any], tmp_path: Path) -> None:
    """With shares of a million to one nearly all rows are taken for the second label."""
    facts = ask(asked=MANY, scores=tmp_path / "i.jsonl", method__calibrate="domain", method__prior=[1e-6, 1_000_000.0])
    share = sum(row["label"] == CHOICES[1] for row in MANY) / len(MANY)
    assert facts["scores"]["acc"] == share == 0.5
    assert {
        max(range(2), key=item["said"]["calibrated"]["domain"].__getitem__) for item in items_of(tmp_path / "i.jsonl")
    } == {1}
    assert facts["calibrations"]["none"] == pytest.approx(ask(asked=MANY)["calibrations"]["none"], abs=1e-6)


def test_shares_are_estimated_by_training_rows_that_are_not_shown(
    ask: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    more = {"method__select": "fixed", "method__shots": 2, "method__calibrate": "batch", "asked": MANY}
    estimated = ask(method__prior="auto", method__held_out=9, scores=tmp_path / "auto.jsonl", **more)
    shares = estimated["label_shares"]
    assert list(shares) == CHOICES
    base, said = open_base("llama-tied"), [item["said"]["ll"] for item in items_of(tmp_path / "auto.jsonl")]
    rest = POOL[2:]
    held = [rest[place] for place in choose("balanced", [CHOICES.index(row["label"]) for row in rest], 9, 0)]
    known = [by_hand(base, POOL[:2], row) for row in held]
    gold = np.array([CHOICES.index(row["label"]) for row in held])
    by_hand_ = estimated_shares(np.array(said), np.array(known), gold)
    assert list(shares.values()) == pytest.approx(by_hand_.tolist(), abs=1e-3)
    given = ask(method__prior=list(shares.values()), **more)
    assert given["calibrations"].keys() == estimated["calibrations"].keys()
    for name, one in estimated["calibrations"].items():
        assert given["calibrations"][name] == pytest.approx(one, abs=1e-12), name
    assert estimated["scores"]["rows"] == len(MANY)


def test_shares_are_not_estimated_from_too_few(ask: Callable[..., Any]) -> None:
    more = {"method__calibrate": "batch", "method__prior": "auto"}
    with pytest.raises(
        RecipeError, match=r"looks at 4 training rows of each of the 2 choices, and method\.held_out is 7"
    ):
        ask(method__held_out=7, **more)
    with pytest.raises(DataError, match="of 'negative' there are 3"):  # nor are rows that are asked among them
        ask(method__shots=2, method__select="fixed", asked=[*MANY, POOL[2], POOL[4]], **more)


def test_batch_says_where_it_should_not_be_believed(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    ask(say=notes.append, method__calibrate="batch")
    assert any("batch calibration of 2 choices begins at 32 rows: with 9 it changes nothing" in note for note in notes)
    monkeypatch.setattr("ctxtune.commands.calibrated.counted_shares", lambda *_: np.array([0.1, 0.9]))
    notes.clear()
    ask(say=notes.append, asked=MANY, method__calibrate="batch")
    (note,) = [note for note in notes if "batch" in note]
    assert "takes 50% of the rows for 'positive', by random words it is 90%" in note
    notes.clear()
    ask(say=notes.append, asked=MANY, method__calibrate="batch", method__prior=[1.0, 9.0])
    ask(say=notes.append, asked=MANY)
    assert not [note for note in notes if "batch" in note]


def test_batch_is_listed_only_where_it_does_something(ask: Callable[..., Any]) -> None:
    assert [name for rows in (MANY[:31], MANY[:32]) for name in ask(asked=rows)["calibrations"]] == [
        "none", "contextual", "pmi", "none", "contextual", "batch", "pmi"
    ]  # fmt: skip
    assert (
        "batch" in ask(asked=MANY[:31], method__calibrate="batch")["calibrations"]
    )  # it is asked for, and a note says so


def test_rows_with_choices_of_their_own(ask: Callable[..., Any], tmp_path: Path) -> None:
    asked = [{"text": row["text"], "label": 0, "own": [row["label"], WORDS[at]]} for at, row in enumerate(ASKED)]
    pool = [{"text": row["text"], "label": 0, "own": [row["label"], "x"]} for row in POOL]
    own = {"asked": asked, "pool": pool, "data__choices": "{{ own }}", "data__answer": "{{ label }}"}
    facts = ask(**own, scores=tmp_path / "items.jsonl", method__calibrate="pmi")
    assert list(facts["calibrations"]) == ["none", "pmi"]
    assert facts["label_shares"] is None
    plain = ask(**own)
    assert list(plain["calibrations"]) == ["none"]
    assert plain["scores"]["acc"] == facts["calibrations"]["none"]["acc"]
    assert plain["tokens"]["read"] < facts["tokens"]["read"]
    for more in ({"method__calibrate": "batch"}, {"method__calibrate": "pmi", "method__prior": [1.0, 2.0]}):
        with pytest.raises(RecipeError, match="choices of their own"):
            ask(**own, **more)


def test_content_free_inputs_are_no_rows(ask: Callable[..., Any]) -> None:
    """A row that is a demonstration is asked behind fewer; what asks nothing is asked behind all of them, once."""
    facts = ask(asked=POOL[:2], method__select="fixed")
    assert facts["asked_behind_fewer"] == 2
    assert (facts["scores"]["rows"], facts["scores"]["dropped"], facts["scores"]["truncated"]) == (2, 0, 0)
    assert list(facts["calibrations"]) == ["none", "contextual", "pmi"]


def test_a_prompt_without_texts_has_no_content_free_input(ask: Callable[..., Any]) -> None:
    numbers = {"pool": [{**row, "n": at} for at, row in enumerate(POOL)], "asked": [{**row, "n": 3} for row in ASKED]}
    facts = ask(**numbers, data__prompt="{{ n }} =")
    assert list(facts["calibrations"]) == ["none"]
    with pytest.raises(RecipeError, match="cannot be filled with texts that say nothing"):
        ask(**numbers, data__prompt="{{ n }} =", method__calibrate="contextual")


def test_the_channel_against_whole_texts(
    ask: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    """Demonstrations and rows with the label before the question; every token of the question counts."""
    import torch

    facts = ask(scores=tmp_path / "items.jsonl", method__select="fixed", method__calibrate="channel", method__shots=2)
    base, items = open_base("llama-tied"), items_of(tmp_path / "items.jsonl")
    front = "".join(f"= {shot['label']}\n{shot['text']}\n" for shot in POOL[:2])
    for row, item in zip(ASKED, items, strict=True):
        lls = []
        for choice in CHOICES:
            start = len(base.tokenizer(f"{front}= {choice}")["input_ids"])
            whole = base.tokenizer(f"{front}= {choice}\n{row['text']}")["input_ids"]
            with torch.no_grad():
                logits = base.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            lls.append(sum(float(logits[at - 1, whole[at]]) for at in range(start, len(whole))))
        assert item["said"]["calibrated"]["channel"] == pytest.approx([math.log(p / 2) for p in shares(lls)], abs=1e-4)
        assert item["scores"]["acc"] == float(CHOICES[lls.index(max(lls))] == row["label"])
    assert "channel" in facts["calibrations"]
    assert "channel" not in ask()["calibrations"]


def test_a_channel_of_rows_that_are_demonstrations_or_dropped(ask: Callable[..., Any]) -> None:
    long = {"text": "good " * 40, "label": "positive"}
    facts = ask(
        asked=[POOL[0], long, *ASKED], method__calibrate="channel", method__select="fixed", data__on_long="drop"
    )
    assert (facts["asked_behind_fewer"], facts["scores"]["rows"], facts["scores"]["dropped"]) == (1, 10, 1)
    with pytest.raises(RecipeError, match="no text to stand behind a label"):
        ask(data__prompt="{{ text | length }} =", method__calibrate="channel")


def test_no_row_that_fits_is_an_error(ask: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="all eval rows were too long"):
        ask(data__max_length=4, data__on_long="drop", method__shots=1)


def test_shares_are_one_a_choice(ask: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=r"method\.prior lists 3 shares, data\.choices 2 choices"):
        ask(method__calibrate="batch", method__prior=[1.0, 2.0, 3.0])
    with pytest.raises(RecipeError, match="which calibrate none leaves in"):
        ask(method__prior=[1.0, 2.0])


def test_demonstrations_of_each_question_have_no_content_free_input(ask: Callable[..., Any]) -> None:
    assert list(ask(asked=MANY, method__select="bm25")["calibrations"]) == ["none", "batch", "pmi"]
    with pytest.raises(RecipeError, match=r"method\.calibrate: select bm25 shows each question other examples"):
        ask(method__select="bm25", method__calibrate="domain")
    with pytest.raises(RecipeError, match=r"method\.prior: select bm25"):
        ask(method__select="bm25", method__calibrate="batch", method__prior="auto")
