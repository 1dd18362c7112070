"""Rows that list their own choices, from the file to the scores: by hand, one plain forward pass a choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.commands.adapt import adapt as adapt_command
from ctxtune.commands.dry_run import dry_run
from ctxtune.commands.evaluate import evaluate
from ctxtune.errors import DataError
from ctxtune.recipe.load import load

from ..conftest import Listener, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base

ROWS: list[dict[str, Any]] = [
    {"question": "Which is the newest?", "choices": ["a telephone", "television", "the plane", "fire"], "answer": 0},
    {"question": "How is a kitten's fur?", "choices": ["gray", "warm", "long", "soft"], "answer": 3},
    {"question": "What is a pond?", "choices": ["A small lake.", "Döner"], "answer": 0},
    {"question": "What lives in water?", "choices": ["a dog", "a fish", "a bird"], "answer": 1},
    {"question": "How is the moon?", "choices": ["round", "a triangle, all in all", "flat"], "answer": 0},
]
TASK = {
    "data.prompt": "Question: {{ question }}\nAnswer:",
    "data.answer": "{{ answer }}",
    "data.choices": "{{ choices }}",
}


def labelled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as the hub's ARC has them."""
    return [
        {"question": row["question"], "choices": {"text": row["choices"], "label": list("ABCD")[: len(row["choices"])]},
         "answer": "ABCD"[row["answer"]]}
        for row in rows
    ]  # fmt: skip


def by_hand(base: Base, rows: list[dict[str, Any]]) -> dict[str, float]:
    """acc, acc_norm, acc_bytes and loss, from the model's plain forward on one request after the other."""
    hits: dict[str, list[bool]] = {"acc": [], "acc_norm": [], "acc_bytes": []}
    nats = []
    for row in rows:
        asked = base.tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        lls = []
        for choice in row["choices"]:
            whole = base.tokenizer(f"Question: {row['question']}\nAnswer: {choice}")["input_ids"]
            with torch.no_grad():
                scores = base.model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
            lls.append(sum(scores[t - 1, whole[t]].item() for t in range(len(asked), len(whole))))
        divisors = {"acc": lambda text: 1, "acc_norm": len, "acc_bytes": lambda text: len(text.encode())}
        for name, divisor in divisors.items():
            best = max(range(len(lls)), key=lambda i: lls[i] / divisor(row["choices"][i]))
            hits[name].append(best == row["answer"])
        nats.append(-lls[row["answer"]])
    return {**{name: sum(found) / len(rows) for name, found in hits.items()}, "loss": sum(nats) / len(rows)}


def score(model: Path, rows: Path) -> dict[str, float]:
    flags = {"model": str(model), "data.eval": str(rows), "device": "cpu", **TASK}
    found: dict[str, float] = evaluate(None, flags, [], None, False, lambda text: None)["scores"]
    return found


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
def test_scores_by_hand(
    kind: str, open_base: Callable[[str], Base], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    found = score(model_folders[kind], write_jsonl(tmp_path / "arc.jsonl", ROWS))
    expected = by_hand(open_base(kind), ROWS)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert found["rows"] == len(ROWS)
    assert score(model_folders[kind], write_jsonl(tmp_path / "hub.jsonl", labelled(ROWS))) == found


def test_training_learns_the_right_choice_and_the_adapter_remembers(
    resolve: Callable[..., Any], tmp_path: Path
) -> None:
    rows = write_jsonl(tmp_path / "arc.jsonl", ROWS)
    more = {**TASK, "data.eval": str(rows), "train.steps": 40, "train.lr": 2e-2, "method.layers": "last:2"}
    facts = adapt_command(resolve("llama-tied", rows, "run", more), False, Listener())
    before, after = facts["scores"]["before"], facts["scores"]["after"]
    assert after["loss"] < before["loss"] / 2
    again = evaluate(None, {"data.eval": str(rows), "device": "cpu"}, [], tmp_path / "run", False, lambda text: None)
    assert {name: again["scores"][name] for name in after} == pytest.approx(after, abs=1e-5)
    recipe = load(str(tmp_path / "run" / "recipe.yaml"), {}).recipe
    assert recipe.data.choices == "{{ choices }}"


def test_a_masked_model_scores_its_own_choices(model_folders: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"question": "the film was", "choices": ["good", "bad", "long"], "answer": 0}, ROWS[3]]
    found = score(model_folders["bert-tied"], write_jsonl(tmp_path / "arc.jsonl", rows))
    assert (found["rows"], found["acc"] in (0.0, 0.5, 1.0)) == (2, True)


def test_the_dry_run_counts_the_right_choices(resolve: Callable[..., Any], tmp_path: Path, open_base: Any) -> None:
    rows = write_jsonl(tmp_path / "arc.jsonl", ROWS)
    facts = dry_run(resolve("gpt2-tied", rows, "run", TASK))
    tokenizer = open_base("gpt2-tied").tokenizer
    right = [f" {row['choices'][row['answer']]}" for row in ROWS]
    assert facts["supervised_tokens"] == sum(len(ids) for ids in tokenizer(right)["input_ids"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": 4}, "the answer 4 is no place among 3 choices, counted from 0"),
        ({"choices": "a dog"}, "field 'choices' is text, but on line 1 it is a list"),
        ({"choices": []}, "data.choices gives a list of 0, choices are at least 2"),
        ({"choices": ["a", "b", "a"]}, "data.choices: 'a' stands there twice"),
        ({"answer": None}, "field 'answer' is null"),
        ({"answer": "1"}, "field 'answer' is text, but on line 1 it is a number"),
    ],
)
def test_a_wrong_row_is_named_before_the_model_is_opened(
    change: dict[str, Any], said: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_jsonl(tmp_path / "arc.jsonl", [*ROWS[:3], {**ROWS[3], **change}])
    with pytest.raises(DataError) as caught:
        score(model_folders["gpt2-tied"], rows)
    assert f"arc.jsonl line 4: {said}" in str(caught.value)
