"""Answers that the model writes: one by one by hand, in batches by the command; what is accepted, and what is refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import sacrebleu

from ctxtune.backend.load import load_base
from ctxtune.commands.evaluate import evaluate
from ctxtune.commands.written import answer_in
from ctxtune.data.read import Row
from ctxtune.errors import DataError, ModelError, RecipeError
from ctxtune.evals.answers import f1, normalise

from ..conftest import CHOICES, PROMPT, review_rows, write_jsonl
from .test_chats import TEMPLATE, talk
from .test_generate import greedy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base

TOKENS = 6


def run(model: Path | None, rows: Path, adapter: Path | None = None, against: str | None = None, **more: Any) -> Any:
    """The scores, and the saved rows."""
    flags = {"model": str(model) if model else None, "device": "cpu", "data.eval": str(rows), "data.prompt": PROMPT}
    flags |= {"data.answer": "{{ label }}", "score.metric": "exact", "generate.max_tokens": TOKENS}
    given = {name.replace("__", "."): value for name, value in more.items()}
    save = rows.with_suffix(".items.jsonl")
    facts = evaluate(None, {**flags, **given}, [], adapter, False, lambda note: None, save, against)
    return facts, [json.loads(line) for line in save.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
def test_every_answer_is_what_one_by_one_gives(
    kind: str, model_folders: dict[str, Path], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    base, rows = open_base(kind), review_rows(8)
    said = [greedy(base, PROMPT.replace("{{ text }}", row["text"]), TOKENS) for row in rows]
    # Half of the rows accept what will be written, some of them beside another answer.
    answers = [[said[i]] if i % 4 == 0 else ["nothing of this", said[i]] if i % 4 == 1 else ["xyzzy"] for i in range(8)]
    path = write_jsonl(tmp_path / "rows.jsonl", [{**row, "answers": a} for row, a in zip(rows, answers, strict=True)])
    facts, lines = run(model_folders[kind], path, score__metric="f1", score__references="{{ answers }}")
    assert [line["said"]["text"] for line in lines] == said
    assert [line["said"]["accepted"] for line in lines] == answers
    hits = [
        float(any(normalise(text) == normalise(one) for one in row)) for text, row in zip(said, answers, strict=True)
    ]
    assert 4 <= sum(hits) < 8
    assert facts["scores"]["exact"] == sum(hits) / 8
    assert facts["scores"]["f1"] == pytest.approx(
        sum(max(f1(text, one) for one in row) for text, row in zip(said, answers, strict=True)) / 8
    )
    assert facts["scores"]["rows"] == 8
    ended = sum(line["said"]["reason"] == "length" for line in lines)
    assert (facts["scores"]["unfinished"], facts["scores"]["dropped"]) == (ended, 0)


@pytest.mark.parametrize(("metric", "row"), [
    ("bleu", ["sentence_bleu"]), ("chrf", ["sentence_chrf"]), ("rouge", ["rouge1", "rouge2", "rougeL"]),
])  # fmt: skip
def test_translations_and_summaries(
    metric: str, row: list[str], model_folders: dict[str, Path], dev: Path, tmp_path: Path
) -> None:
    """The corpus' own figure beside the rows' scores, by which a result is compared with an earlier one."""
    common: dict[str, Any] = {"model": model_folders["llama-tied"], "rows": dev, "score__metric": metric}
    facts, lines = run(**common)
    assert all(list(line["scores"]) == row for line in lines)
    texts, right = [line["said"]["text"] for line in lines], [line["said"]["accepted"][0] for line in lines]
    if metric != "rouge":
        by_hand = {"bleu": sacrebleu.corpus_bleu, "chrf": sacrebleu.corpus_chrf}[metric](texts, [right])
        assert facts["scores"][metric] == pytest.approx(by_hand.score)
        assert facts["scores"][f"{metric}_stderr"] >= 0
        assert "nrefs:1|case:mixed" in facts["signature"]
    assert next(iter(facts["scores"])) == (metric if metric != "rouge" else "rows")
    (tmp_path / "earlier.jsonl").write_bytes(dev.with_suffix(".items.jsonl").read_bytes())
    again, _ = run(**common, against=str(tmp_path / "earlier.jsonl"))
    assert {name: found["difference"] for name, found in again["against"]["differences"].items()} == dict.fromkeys(
        row, 0
    )


def test_what_nothing_could_match_is_refused(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """rouge-score's own words are of a to z: a Chinese answer would get 0 whatever is written."""
    rows = [{"text": "fun", "label": "good"}, {"text": "好", "label": "好看"}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    common: dict[str, Any] = {"model": model_folders["llama-tied"], "rows": path}
    with pytest.raises(
        DataError, match=r"rows\.jsonl line 2: score\.metric rouge finds nothing in the answer '好看'"
    ) as told:
        run(**common, score__metric="rouge")
    assert "score.tokenize=zh" in str(told.value.hint)
    run(**common, score__metric="rouge", score__tokenize="zh")
    with pytest.raises(DataError, match=r"rows\.jsonl line 1: score\.metric number finds nothing"):
        run(**common, score__metric="number")


def test_a_learned_answer_is_right_where_the_base_is_wrong(
    adapt: Any, dev: Path, reviews: Path, tmp_path: Path
) -> None:
    """Free answers learn where to end; the adapter remembers that they are scored by what is written."""
    adapt(
        "llama-untied",
        more={
            "train.lr": 1e-2, "train.steps": 60, "method.layers": "all", "data.choices": None, "score.metric": "exact",
            "generate.max_tokens": TOKENS,
        },
    )  # fmt: skip
    facts = evaluate(None, {"data.eval": str(reviews)}, [], tmp_path / "run", False, lambda note: None, None, "base")
    assert facts["scores"]["exact"] > 0.9
    assert facts["scores"]["unfinished"] < 3
    found = facts["against"]["differences"]["exact"]
    assert found["other"] == 0
    assert found["low"] > 0.7
    assert found["p"] < 1e-4


def test_of_a_chat_the_last_reply_is_written(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Behind what the chat template puts before it; the row's own last reply is what is accepted."""
    folder = shutil.copytree(model_folders["llama-tied"], tmp_path / "chatty")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    rows = [talk("is it good?", "good", "sure?", "yes"), talk("is it bad?", "no, it is good")]
    path, save = write_jsonl(tmp_path / "chats.jsonl", rows), tmp_path / "items.jsonl"
    flags = {"model": str(folder), "data.eval": str(path), "data.messages": "messages", "device": "cpu"}
    flags |= {"score.metric": "exact", "generate.max_tokens": TOKENS}
    evaluate(None, flags, [], None, False, lambda note: None, save)
    said = [json.loads(line)["said"] for line in save.read_text("utf-8").splitlines()]
    assert [one["accepted"] for one in said] == [["yes"], ["no, it is good"]]
    base = load_base(folder, "cpu")
    # The template begins with the BOS token, which the tokenizer would write again.
    asked = ["u:is it good?</s>a:good</s>u:sure?</s>a:", "u:is it bad?</s>a:"]
    assert [one["text"] for one in said] == [greedy(base, text, TOKENS) for text in asked]


def test_a_stop_string_ends_an_answer(model_folders: dict[str, Path], dev: Path, open_base: Any) -> None:
    base = open_base("llama-tied")
    row = json.loads(dev.read_text("utf-8").splitlines()[0])
    said = greedy(base, PROMPT.replace("{{ text }}", row["text"]), TOKENS)
    _, lines = run(model_folders["llama-tied"], dev, generate__stop=[said[2]])
    assert lines[0]["said"]["text"] == said[: said.index(said[2])]
    assert lines[0]["said"]["reason"] == "stop"


def test_long_prompts_are_cut_or_dropped_as_the_recipe_says(model_folders: dict[str, Path], dev: Path) -> None:
    common: dict[str, Any] = {"model": model_folders["llama-tied"], "rows": dev, "data__max_length": 40}
    cut, lines = run(**common, data__on_long="truncate")
    dropped, fewer = run(**common, data__on_long="drop")
    assert len(lines) == 10
    assert 0 < cut["scores"]["truncated"] == dropped["scores"]["dropped"] == 10 - len(fewer)


@pytest.mark.parametrize(("answers", "said"), [
    ("one", "gives str, not a list"), ([], "gives a list of 0"), (["a", None], "lists null, not a text"),
    ([["a"]], "lists list, not a text"), ([True], "lists bool, not a text"), (["a"] * 1001, "gives a list of 1,001"),
])  # fmt: skip
def test_a_row_without_a_list_of_answers(answers: object, said: str, tmp_path: Path) -> None:
    """Found before a model is looked for."""
    path = write_jsonl(tmp_path / "rows.jsonl", [{**review_rows(1)[0], "answers": answers}])
    with pytest.raises(DataError, match=rf"rows\.jsonl line 1: score\.references {said}"):
        run(tmp_path / "no model", path, score__references="{{ answers }}")


def test_where_nothing_is_written(model_folders: dict[str, Path], dev: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"score\.metric is exact, but a row with choices has no answer"):
        run(tmp_path / "no model", dev, data__choices=CHOICES)
    with pytest.raises(ModelError, match="fills gaps"):
        run(model_folders["bert-tied"], dev)
    with pytest.raises(RecipeError, match=r"score\.metric"):
        run(model_folders["llama-tied"], dev, score__metric="meteor")
    (tmp_path / "text.txt").write_text("it was good", encoding="utf-8")
    flags = {"model": str(tmp_path / "no model"), "data.eval": str(tmp_path / "text.txt"), "score.metric": "f1"}
    with pytest.raises(RecipeError, match="but a running text has no answer"):
        evaluate(None, flags, [], None, False, lambda note: None)


def test_an_answer_is_without_the_space_that_belongs_to_the_prompt() -> None:
    row = Row({}, "rows.jsonl", 1)
    assert answer_in(" a red hat\n", None, row) == "a red hat"
    assert answer_in(" a red hat\n", "a.*", row) == "a red hat"
    assert answer_in("So: 7 ", ":(.*)", row) == " 7 "  # what the pattern says is taken at its word
