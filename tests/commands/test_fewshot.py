"""Few-shot prompting against plain transformers over whole texts, with lm-evaluation-harness's text written by hand."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.commands.fewshot import fewshot
from ctxtune.errors import DataError, ModelError, RecipeError
from ctxtune.recipe.load import load

from ..conftest import CHOICES, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base

PROMPT = "{{ text }} ="
WORDS = ["good", "fun", "dull", "great", "bad", "fine", "poor", "nice", "sad", "warm", "cold", "new"]
POOL = [{"text": word, "label": CHOICES[place % 2]} for place, word in enumerate(WORDS)]
ASKED = [{"text": f"{WORDS[place]} {WORDS[place // 2]}", "label": CHOICES[place % 3 % 2]} for place in range(9)]


@pytest.fixture
def ask(model_folders: dict[str, Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the command on a tiny model."""

    def run(
        kind: str = "llama-tied",
        pool: Any = POOL,
        asked: Any = ASKED,
        scores: Path | None = None,
        save: Path | None = None,
        say: Callable[[str], None] = [].append,
        **more: object,
    ) -> Any:
        given = {
            "model": str(model_folders[kind]), "method.name": "fewshot", "device": "cpu", "data.prompt": PROMPT,
            "data.answer": "{{ label }}", "data.choices": CHOICES, "cache": "off", "data.separator": "\n", "method.shots": 3,
            "data.train": str(write_jsonl(tmp_path / "pool.jsonl", pool)),
            "data.eval": str(write_jsonl(tmp_path / "asked.jsonl", asked)),
            **{name.replace("__", "."): value for name, value in more.items()},
        }  # fmt: skip
        facts = fewshot(load(None, given, []), say, scores, save)
        json.loads(json.dumps(facts), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
        return facts

    return run


def question(row: dict[str, str]) -> str:
    return PROMPT.replace("{{ text }}", row["text"])


def by_hand(base: Base, shots: list[dict[str, str]], row: dict[str, str], instruction: str = "") -> list[float]:
    """Log-likelihoods of the choices, each whole text by itself."""
    front = instruction + "".join(f"{question(shot)} {shot['label']}\n" for shot in shots)
    found = []
    for choice in CHOICES:
        prompt = front + question(row)
        start, whole = len(base.tokenizer(prompt)["input_ids"]), base.tokenizer(f"{prompt} {choice}")["input_ids"]
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        found.append(sum(float(logits[at - 1, whole[at]]) for at in range(start, len(whole))))
    return found


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "opt-tied", "qwen3-sliding-tied", "gemma3_text-tied"])
def test_scores_are_those_of_whole_texts(
    kind: str, ask: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    facts = ask(
        kind, scores=tmp_path / "items.jsonl", method__shots=3, method__select="fixed", data__instruction="So:\n"
    )
    base = open_base(kind)
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    expected = [by_hand(base, POOL[:3], row, "So:\n") for row in ASKED]
    assert [item["line"] for item in items] == list(range(1, len(ASKED) + 1))
    for item, lls, row in zip(items, expected, ASKED, strict=True):
        assert item["said"]["ll"] == pytest.approx(lls, abs=1e-4)
        assert item["scores"]["acc"] == float(CHOICES[lls.index(max(lls))] == row["label"])
    assert facts["scores"]["acc"] == sum(item["scores"]["acc"] for item in items) / len(items)
    tokens = facts["tokens"]
    assert 0 < tokens["prefix"] < tokens["read"] < tokens["whole"] / 3


def test_no_shots_is_what_eval_says(ask: Callable[..., Any], model_folders: dict[str, Path], tmp_path: Path) -> None:
    from ctxtune.commands.evaluate import evaluate

    found = ask(method__shots=0, data__train=None)["scores"]
    given = {"model": str(model_folders["llama-tied"]), "device": "cpu", "data.prompt": PROMPT, "data.choices": CHOICES}
    more = {"data.answer": "{{ label }}", "data.eval": str(tmp_path / "asked.jsonl")}
    assert found == pytest.approx(evaluate(None, {**given, **more}, [], None, False, print)["scores"], abs=1e-5)


def test_a_row_never_sees_itself(ask: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path) -> None:
    """The same question is the same row, whatever else stands in it."""
    leaked = {**POOL[1], "id": 7}
    facts = ask(asked=[*ASKED[:3], leaked], scores=tmp_path / "items.jsonl", method__shots=3, method__select="fixed")
    assert facts["asked_behind_fewer"] == 1
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    base = open_base("llama-tied")
    assert items[3]["said"]["ll"] == pytest.approx(by_hand(base, [POOL[0], POOL[2]], POOL[1]), abs=1e-4)
    assert items[0]["said"]["ll"] == pytest.approx(by_hand(base, POOL[:3], ASKED[0]), abs=1e-4)


def test_a_second_run_reads_no_demonstration(ask: Callable[..., Any]) -> None:
    first, second = (ask(cache="disk") for _ in range(2))
    assert first["scores"] == second["scores"]
    assert (first["tokens"]["kept"], second["tokens"]["kept"]) == (0, second["tokens"]["prefix"])
    assert second["tokens"]["read"] == first["tokens"]["read"] - first["tokens"]["prefix"]


def test_too_many_shots_are_told_how_many_fit(ask: Callable[..., Any]) -> None:
    with pytest.raises(
        RecipeError, match=r"method\.shots: 12 demonstrations take .* tokens, the longest question leaves"
    ) as told:
        ask(method__shots=12, method__select="fixed")
    fit = int(str(told.value.hint).rpartition(" ")[2])
    assert 3 <= fit < 12
    ask(method__shots=fit, method__select="fixed")
    with pytest.raises(RecipeError, match=r"method\.shots"):
        ask(method__shots=fit + 1, method__select="fixed")


def test_a_demonstration_that_never_fits_is_named(ask: Callable[..., Any], tmp_path: Path) -> None:
    pool = [{"text": "long " * 70, "label": CHOICES[0]}, *POOL]
    with pytest.raises(RecipeError, match="1 demonstrations take") as caught:
        ask(pool=pool, method__shots=1, method__select="fixed")
    assert str(caught.value.hint).startswith(f"shorten {tmp_path / 'pool.jsonl'} line 1, which does not fit alone")


def test_chance_is_of_the_seed(ask: Callable[..., Any]) -> None:
    draws = [ask(method__select="balanced", method__seed=seed) for seed in (0, 0, 1)]
    assert draws[0]["shots"] == draws[1]["shots"] != draws[2]["shots"]
    assert math.isfinite(draws[2]["scores"]["loss"])


@pytest.mark.parametrize("kind", ["llama-tied", "gemma3_text-tied"])
def test_written_answers_are_those_of_whole_texts(
    kind: str, ask: Callable[..., Any], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    more = {"data__choices": None, "score__metric": "exact", "generate__max_tokens": 6, "method__select": "fixed"}
    facts = ask(kind, scores=tmp_path / "items.jsonl", **more)
    base = open_base(kind)
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    front = "".join(f"{question(shot)} {shot['label']}\n" for shot in POOL[:3])
    for item, row in zip(items, ASKED, strict=True):
        ids = base.tokenizer(front + question(row), return_tensors="pt")["input_ids"]
        told = base.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)[
            0, ids.shape[1] :
        ]
        text = base.tokenizer.decode(told, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert item["said"]["text"] == text.partition("\n")[0]  # the separator ends an answer
        assert item["said"]["accepted"] == [row["label"]]
    assert facts["scores"]["exact"] == sum(item["scores"]["exact"] for item in items) / len(items)
    assert 0 < facts["tokens"]["prefix"] < facts["tokens"]["read"] < facts["tokens"]["whole"] / 2


def test_an_answer_is_extracted(ask: Callable[..., Any], tmp_path: Path) -> None:
    more = {"data__choices": None, "score__metric": "exact", "generate__max_tokens": 6, "cache": "off"}
    whole = ask(scores=tmp_path / "a.jsonl", **more)
    part = ask(scores=tmp_path / "b.jsonl", score__extract="(.)$", **more)
    texts, answers = (
        [json.loads(line)["said"] for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        for name in ("a.jsonl", "b.jsonl")
    )
    assert [one["text"] for one in texts] == [one["text"] for one in answers]
    assert [one["answer"] for one in answers] == [one["text"][-1:] for one in texts]
    assert whole["scores"]["rows"] == part["scores"]["rows"] == len(ASKED)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"data__choices": None}, RecipeError, "data.choices is missing, and score.metric is likelihood"),
        (
            {"data__choices": None, "score__metric": "exact", "score__extract": "("},
            RecipeError,
            "no regular expression",
        ),
        ({"data__eval": None}, RecipeError, "data.eval is missing"),
        ({"data__train": None}, RecipeError, "data.train is missing"),
        ({"kind": "bert-tied"}, ModelError, "a bert model fills gaps"),
        ({"method__shots": 13}, DataError, "13 demonstrations are asked for, the training rows are 12"),
        (
            {"pool": [{"text": "x", "label": "odd"}]},
            DataError,
            "pool.jsonl line 1: the answer 'odd' is none of the choices",
        ),
    ],
)
def test_what_is_refused(change: dict[str, Any], error: type[Exception], said: str, ask: Callable[..., Any]) -> None:
    with pytest.raises(error, match=said):
        ask(**change)
