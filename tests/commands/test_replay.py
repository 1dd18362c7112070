"""What is replayed of lm-evaluation-harness: which demonstrations it draws, and what it writes.

`tests/evals/parity/make_fewshot.py` wrote what is expected here; what a model says of it: tests/real/test_replay.py.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.commands import prepare
from ctxtune.commands.asking import Asking
from ctxtune.commands.choose import Chooser
from ctxtune.commands.clock import Clock
from ctxtune.data.encode import EncodeSpec
from ctxtune.data.replay import Replay
from ctxtune.errors import DataError, RecipeError
from ctxtune.methods.fewshot import behind, formed
from ctxtune.recipe.load import load

from ..conftest import CHOICES
from ..evals.parity.fewshot import FEWSHOT, expected_fewshot
from . import test_fewshot
from .test_fewshot import ASKED, POOL, by_hand

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base

ask = test_fewshot.ask
EXPECTED = expected_fewshot()


@pytest.mark.parametrize("name", [name for name in FEWSHOT if not FEWSHOT[name].chat and name != "sst2"])
def test_demonstrations_and_contexts_are_the_harness_s(name: str) -> None:
    """No model is asked: the places drawn for each row, and its whole text."""
    task = FEWSHOT[name]
    given = {
        f"{part}.{key}": value
        for part, keys in (("data", task.data), ("method", task.method))
        for key, value in keys.items()
    }
    recipe = load(None, {"model": "m", **given}).recipe
    templates = prepare.compile_templates(recipe.data)
    pool, asked = (
        prepare.read_source(task.data[key], recipe.data, templates, None, key).rows for key in ("train", "eval")
    )
    spec = prepare._spec(recipe.data, templates, None, "causal", 1 << 24)
    assert isinstance(spec, EncodeSpec)
    spec = formed(spec, recipe.method)
    run = Asking(None, "", recipe, spec, Clock())  # type: ignore[arg-type]
    groups = Chooser(pool, recipe.method, recipe.data.separator, run, [].append).groups(asked[: task.first])
    found = {
        row.line: (shots, behind(shots, spec).render(row).prompt) for shots, rows in groups.items() for row in rows
    }
    assert len(found) == len(EXPECTED[name]["drawn"]) >= 16
    for line, drawn, context in zip(sorted(found), EXPECTED[name]["drawn"], EXPECTED[name]["contexts"], strict=True):
        shots, text = found[line]
        assert [int(shot.where.rpartition(" ")[2]) - 1 for shot in shots] == drawn
        assert hashlib.sha256(text.encode()).hexdigest() == context


@pytest.mark.parametrize("case", EXPECTED["samplers"], ids=str)
def test_samplers_draw_what_the_harness_s_draw(case: dict[str, Any]) -> None:
    """A question that stands in the pool, not at all, once or often."""
    pool = [{"text": text} for text in case["pool"]]
    replay = Replay(pool, case["select"], case["shots"], case["seed"], case["one_more"])
    assert [replay.places({"text": text, "other": None}) for text in case["questions"]] == case["drawn"]


def test_a_pool_that_is_too_small() -> None:
    with pytest.raises(
        DataError, match="3 demonstrations are asked for, the training rows are 2 beside the question"
    ) as told:
        Replay([{"a": 1}] * 3, "random", 3, 0, True)
    assert str(told.value.hint).endswith("--shots 2")
    same = Replay([{"a": 1}, {"a": 1}, {"a": 2}], "fixed", 2, 0, True)
    with pytest.raises(DataError, match="2 demonstrations are asked for, the training rows are 1 beside"):
        same.places({"a": 1})


def test_scores_are_those_of_whole_texts(
    ask: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    """A row behind each draw of its own, all in one pass; equal draws are read once."""
    notes: list[str] = []
    asked = [*ASKED, {**POOL[4], "id": 1}, *ASKED]
    more = {"method__replay": "lm-eval", "method__shots": 2, "data__instruction": "So:\n"}
    facts = ask(asked=asked, scores=tmp_path / "items.jsonl", say=notes.append, **more)
    assert (facts["method"]["select"], facts["method"]["seed"]) == ("random", 1234)
    replay, base = Replay(POOL, "random", 2, 1234, False), open_base("llama-tied")
    lines = (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()
    own, sets = 0, set()
    for row, line in zip(asked, lines, strict=True):
        places = replay.places(row)
        sets.add(tuple(places))
        own += any(POOL[place]["text"] == row["text"] for place in places)
        lls = by_hand(base, [POOL[place] for place in places], row, "So:\n")
        assert json.loads(line)["said"]["ll"] == pytest.approx(lls, abs=1e-4)
    assert facts["prefixes"] == len(sets)
    assert [note for note in notes if "own demonstrations" in note] == [
        f"{own} rows are among their own demonstrations, as lm-eval draws them"
    ] * bool(own)


@pytest.mark.parametrize("select", ["random", "fixed"])
def test_a_row_of_the_same_file_is_left_out(select: str, ask: Callable[..., Any], tmp_path: Path) -> None:
    """One file for both; --seeds asks it again as another seed would."""
    path = tmp_path / "pool.jsonl"
    more = {"method__replay": "lm-eval", "method__select": select, "data__train": str(path), "data__eval": str(path)}
    facts = ask(**more, method__one_more="auto")
    assert facts["asked_behind_fewer"] == 0
    assert facts["scores"] == ask(**more, method__one_more=True)["scores"]
    other = ask(**more, method__one_more=False)
    assert (facts["prefixes"], other["prefixes"]) == ((4, 1) if select == "fixed" else (12, 12))
    assert facts["scores"]["loss"] != pytest.approx(other["scores"]["loss"], abs=1e-5)
    if select == "random":
        both = ask(**more, method__seeds=2)
        assert [draw["seed"] for draw in both["draws"]] == [1234, 1235]
        assert both["draws"][0]["scores"] == pytest.approx(facts["scores"], abs=1e-5)


def test_the_delimiter_stands_where_the_harness_writes_it(
    ask: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    """Behind white space too: two spaces, both of which belong to the answer."""
    import torch

    more = {"method__replay": "lm-eval", "method__shots": 1, "method__select": "fixed", "data__prompt": "{{ text }} = "}
    ask(scores=tmp_path / "items.jsonl", **more)
    base = open_base("llama-tied")
    for line, row in zip((tmp_path / "items.jsonl").read_text("utf-8").splitlines(), ASKED, strict=True):
        front = f"{POOL[0]['text']} =  {POOL[0]['label']}\n{row['text']} ="
        lls = []
        for choice in CHOICES:
            start, whole = len(base.tokenizer(front)["input_ids"]), base.tokenizer(f"{front}  {choice}")["input_ids"]
            with torch.no_grad():
                nats = base.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            lls.append(sum(float(nats[at - 1, whole[at]]) for at in range(start, len(whole))))
        assert json.loads(line)["said"]["ll"] == pytest.approx(lls, abs=1e-4)


def test_written_answers_go_on_from_each_row_s_own_text(ask: Callable[..., Any], tmp_path: Path) -> None:
    more = {
        "data__choices": None, "score__metric": "exact", "generate__max_tokens": 4, "method__replay": "lm-eval",
    }  # fmt: skip
    ask(scores=tmp_path / "all.jsonl", **more)
    texts = [json.loads(line)["said"]["text"] for line in (tmp_path / "all.jsonl").read_text("utf-8").splitlines()]
    replay = Replay(POOL, "random", 3, 1234, False)
    for row, text in zip(ASKED, texts, strict=True):
        pool = [POOL[place] for place in replay.places(row)]
        fixed = {**more, "method__replay": None, "method__select": "fixed"}
        ask(asked=[row], pool=pool, scores=tmp_path / "one.jsonl", **fixed)
        assert json.loads((tmp_path / "one.jsonl").read_text("utf-8"))["said"]["text"] == text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method.select": "balanced"}, "replay lm-eval knows select random and fixed"),
        ({"method.order": "best"}, "replay lm-eval leaves demonstrations as they are drawn"),
        ({"method.replay": None, "method.one_more": True}, "one_more is a rule of what is replayed"),
        ({"method.replay": "helm"}, "--as: method.replay is 'helm', allowed: lm-eval, or null"),
        ({"method.select": "random", "method.seeds": 3, "method.calibrate": "contextual"}, None),
    ],
)
def test_what_is_refused(change: dict[str, object], said: str | None) -> None:
    flags = {"model": "m", "method.name": "fewshot", "method.replay": "lm-eval", **change}
    if said is None:
        assert load(None, flags).recipe.method.by_question
        return
    with pytest.raises(RecipeError, match=said):
        load(None, flags)
