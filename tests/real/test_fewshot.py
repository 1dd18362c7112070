"""Few-shot prompting on the real model: one reading of the demonstrations says what reading every whole text says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from .conftest import ROWS, TASK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .conftest import Ended

pytestmark = pytest.mark.real
SHOTS, COUNT, WRITTEN, TOKENS = 16, 24, 3, 12
CHOICES = ("negative", "positive")


def shortest(path: Path, number: int) -> list[dict[str, str]]:
    """The shortest reviews: plain transformers reads each of the texts as a whole, demonstrations included."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return sorted(rows, key=lambda row: len(row["text"]))[:number]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return shortest(ROWS, COUNT)


@pytest.fixture(scope="module")
def shots() -> list[dict[str, str]]:
    return shortest(ROWS.with_name("mr_train.jsonl"), SHOTS)


@pytest.fixture(scope="module")
def ask(
    ctxtune: Callable[..., Ended], model: Path, rows: Any, shots: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Any, list[Any]]]:
    """ask(option, ...): the result of the command in a process of its own, and what every row gave."""
    folder = tmp_path_factory.mktemp("fewshot")
    for name, some in (("train", shots), ("eval", rows), ("few", rows[:WRITTEN])):
        text = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")

    def ask(which: str, *options: str) -> tuple[Any, list[Any]]:
        done = ctxtune(
            "fewshot", "--model", model, "--train", folder / "train.jsonl", "--eval", folder / f"{which}.jsonl",
            "--shots", SHOTS, "--select", "fixed", "--scores", folder / "items.jsonl", "--json", *options,
            more={"CTXTUNE_HOME": str(folder / "home")},
        )  # fmt: skip
        assert done.code == 0, done.err
        items = (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()
        return done.json, [json.loads(line) for line in items]

    return ask


@pytest.fixture(scope="module")
def plain(model: Path) -> tuple[Any, Any]:
    """The model and the tokenizer as transformers has them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(model)


def question(row: dict[str, str]) -> str:
    return f"Review: {row['text']}\nSentiment:"


def whole_text(shots: Sequence[dict[str, str]], row: dict[str, str]) -> str:
    return "".join(f"{question(shot)} {shot['label']}\n\n" for shot in shots) + question(row)


def by_hand(plain: tuple[Any, Any], text: str) -> list[float]:
    """log p of each choice behind a text, one token each, in nats."""
    model, tokenizer = plain
    ids = tokenizer(text)["input_ids"]
    tokens = [tokenizer(f"{text} {choice}")["input_ids"] for choice in CHOICES]
    assert [one[:-1] for one in tokens] == [ids] * len(CHOICES)
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([ids]), logits_to_keep=1).logits[0, -1].log_softmax(-1)
    return [float(log_p[one[-1]]) for one in tokens]


def test_scores_are_those_of_whole_texts_and_the_next_run_reads_no_demonstration(
    ask: Callable[..., Any], plain: Any, shots: list[dict[str, str]], rows: list[dict[str, str]]
) -> None:
    facts, items = ask("eval", *TASK)
    expected = [by_hand(plain, whole_text(shots, row)) for row in rows]
    for item, lls in zip(items, expected, strict=True):
        assert item["said"]["ll"] == pytest.approx(lls, abs=1e-3)
        assert item["said"]["answer"] == lls.index(max(lls))
    right = [CHOICES[lls.index(max(lls))] == row["label"] for lls, row in zip(expected, rows, strict=True)]
    assert facts["scores"]["acc"] == pytest.approx(sum(right) / COUNT)
    tokens = facts["tokens"]
    assert tokens["kept"] == 0
    assert tokens["read"] < tokens["whole"] / 5

    again, same = ask("eval", *TASK)
    assert [item["said"]["ll"] for item in same] == [item["said"]["ll"] for item in items]
    assert again["tokens"]["kept"] == again["tokens"]["prefix"] == tokens["prefix"]
    assert again["tokens"]["read"] == tokens["read"] - tokens["prefix"]


def test_what_is_written_is_what_generate_writes_behind_the_whole_text(
    ask: Callable[..., Any], plain: Any, shots: list[dict[str, str]], rows: list[dict[str, str]]
) -> None:
    """Past the next separator, which would end an answer after a word."""
    model, tokenizer = plain
    free = ("--set", f"generate.max_tokens={TOKENS}", "--set", 'generate.stop=["no such text"]')
    _, items = ask("few", *TASK[:4], "--metric", "exact", *free)
    for item, row in zip(items, rows, strict=False):
        ids = torch.tensor([tokenizer(whole_text(shots, row))["input_ids"]])
        with torch.no_grad():
            told = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
        text = tokenizer.decode(told[0, ids.shape[1] :], skip_special_tokens=True)
        assert item["said"]["text"].strip() == text.strip()
    assert len(items) == WRITTEN
