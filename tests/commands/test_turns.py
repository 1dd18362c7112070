"""Demonstrations as turns of a chat, against transformers over whole chats as the tokenizer's own template writes them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.backend.load import load_base
from ctxtune.commands.fewshot import fewshot
from ctxtune.commands.stream import fewshot_stream
from ctxtune.errors import ModelError, RecipeError
from ctxtune.recipe.load import load

from ..conftest import CHOICES, write_jsonl
from .test_chats import TEMPLATE
from .test_fewshot import ASKED, POOL, question
from .test_stream import lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ctxtune.backend.load import Base

NEWLINE = TEMPLATE.replace("'a:'", "'a:\\n'").replace("+ ':' }}", "+ ':\\n' }}")
# The system may not speak; what is said is trimmed.
STERN = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE.replace(
    "m['content']", "m['content'] | trim"
)
DEAF = TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
Turn = dict[str, str]


@pytest.fixture
def chatty(model_folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """chatty(template, kind): a model that was made for chats."""

    def chatty(template: str | None = TEMPLATE, kind: str = "llama-tied") -> Path:
        folder = tmp_path / "chatty"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model_folders[kind], folder)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return folder

    return chatty


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Any]:
    def recipe(model: Path, pool: Any = POOL, asked: Any = ASKED, **more: object) -> Any:
        given = {
            "model": str(model), "method.name": "fewshot", "device": "cpu", "data.prompt": "{{ text }} =", "method.chat": True,
            "data.answer": "{{ label }}", "data.choices": CHOICES, "cache": "off", "method.shots": 2, "method.select": "fixed",
            "data.train": str(write_jsonl(tmp_path / "pool.jsonl", pool)),
            "data.eval": str(write_jsonl(tmp_path / "asked.jsonl", asked)),
        }  # fmt: skip
        return load(None, {**given, **{name.replace("__", "."): value for name, value in more.items()}})

    return recipe


@pytest.fixture
def ask(recipe: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """ask(model, ...): the facts, and what every row said."""

    def ask(*given: Any, say: Callable[[str], None] = [].append, **more: object) -> tuple[dict[str, Any], list[Any]]:
        facts = fewshot(recipe(*given, **more), say, tmp_path / "items.jsonl")
        items = (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()
        return facts, [json.loads(item)["said"] for item in items]

    return ask


def turns(shots: Sequence[dict[str, str]], row: dict[str, str], system: str = "") -> list[Turn]:
    told = [{"role": "system", "content": system}] if system else []
    for shot in shots:
        told += [{"role": "user", "content": question(shot)}, {"role": "assistant", "content": shot["label"]}]
    return [*told, {"role": "user", "content": question(row)}]


def by_hand(base: Base, chat: list[Turn]) -> list[float]:
    """Each choice behind the chat: white space at the end of what the template writes goes over to the choice."""
    text = base.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    start, found = len(base.tokenizer(text.rstrip(), add_special_tokens=False)["input_ids"]), []
    for choice in CHOICES:
        whole = base.tokenizer(text + choice, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            nats = base.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        found.append(sum(float(nats[at - 1, whole[at]]) for at in range(start, len(whole))))
    return found


@pytest.mark.parametrize(
    ("kind", "template", "shots"),
    [
        ("llama-tied", TEMPLATE, 2),
        ("llama-tied", NEWLINE, 2),
        ("gpt2-tied", NEWLINE, 1),
        ("gemma3_text-tied", TEMPLATE, 2),
    ],
)
@pytest.mark.parametrize("replay", [None, "lm-eval"])
def test_scores_are_those_of_whole_chats(
    kind: str, template: str, shots: int, replay: str | None, chatty: Callable[..., Path], ask: Callable[..., Any]
) -> None:
    model = chatty(template, kind)
    facts, said = ask(model, data__instruction="be brief", method__replay=replay, method__shots=shots)
    base = load_base(model, "cpu")
    for one, row in zip(said, ASKED, strict=True):
        assert one["ll"] == pytest.approx(by_hand(base, turns(POOL[:shots], row, "be brief")), abs=1e-4)
    tokens = facts["tokens"]
    assert 0 < tokens["prefix"] < tokens["read"] < tokens["whole"] / 2


def test_a_row_never_sees_itself(chatty: Callable[..., Path], ask: Callable[..., Any]) -> None:
    model = chatty()
    facts, said = ask(model, asked=[*ASKED[:3], POOL[1]])
    assert facts["asked_behind_fewer"] == 1
    expected = by_hand(load_base(model, "cpu"), turns([POOL[0]], POOL[1]))
    assert said[3]["ll"] == pytest.approx(expected, abs=1e-4)


def test_a_second_run_reads_no_demonstration(chatty: Callable[..., Path], ask: Callable[..., Any]) -> None:
    model = chatty()
    first, second = (ask(model, cache="disk")[0]["tokens"] for _ in range(2))
    assert (first["kept"], second["kept"]) == (0, second["prefix"])


@pytest.mark.parametrize("template", [STERN, DEAF])
def test_an_instruction_without_a_system(template: str, chatty: Callable[..., Path], ask: Callable[..., Any]) -> None:
    """It begins the first turn; the harness leaves it out."""
    model, notes = chatty(template), []
    base = load_base(model, "cpu")
    _, said = ask(model, data__instruction="So: ")
    _, replayed = ask(model, say=notes.append, data__instruction="So: ", method__replay="lm-eval")
    assert any("instruction is left out" in note for note in notes)
    for one, other, row in zip(said, replayed, ASKED, strict=True):
        chat = turns(POOL[:2], row)
        assert other["ll"] == pytest.approx(by_hand(base, chat), abs=1e-4)
        chat[0]["content"] = "So: " + chat[0]["content"]
        assert one["ll"] == pytest.approx(by_hand(base, chat), abs=1e-4)


@pytest.mark.parametrize("template", [TEMPLATE, NEWLINE])
def test_written_answers_are_those_of_whole_chats(
    template: str, chatty: Callable[..., Path], ask: Callable[..., Any], recipe: Callable[..., Any]
) -> None:
    model = chatty(template)
    more = {"data__choices": None, "score__metric": "exact", "generate__max_tokens": 6}
    _, said = ask(model, **more)
    base = load_base(model, "cpu")
    for one, row in zip(said, ASKED, strict=True):
        text = base.tokenizer.apply_chat_template(turns(POOL[:2], row), tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([base.tokenizer(text, add_special_tokens=False)["input_ids"]])
        told = base.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        assert one["text"] == base.tokenizer.decode(told[0, ids.shape[1] :], skip_special_tokens=True)
        assert one["accepted"] == [row["label"]]
    streamed = fewshot_stream(recipe(model, **more, data__eval="-"), lines(ASKED), "stop", [].append)
    assert [one["prediction"] for one in streamed] == [one["answer"] for one in said]


@pytest.mark.parametrize("replay", [None, "lm-eval"])
def test_a_pipe_is_told_what_a_file_is(
    replay: str | None, chatty: Callable[..., Path], ask: Callable[..., Any], recipe: Callable[..., Any]
) -> None:
    more = {"method__replay": replay, "method__select": "random", "data__instruction": "be brief"}
    model = chatty()
    _, said = ask(model, **more)
    streamed = list(fewshot_stream(recipe(model, **more, data__eval="-"), lines(ASKED), "stop", [].append))
    for one, other in zip(streamed, said, strict=True):
        assert list(one["scores"].values()) == pytest.approx(other["ll"], abs=1e-4)


def test_calibrations_ask_in_the_chat_too(chatty: Callable[..., Path], ask: Callable[..., Any]) -> None:
    model = chatty()
    facts, said = ask(model, method__calibrate="contextual", data__prompt="{{ text }} = ")
    assert {"none", "contextual", "pmi"} <= facts["calibrations"].keys()
    base = load_base(model, "cpu")
    alone = by_hand(base, [{"role": "user", "content": "= "}])
    pmi = [ll - other for ll, other in zip(said[0]["ll"], alone, strict=True)]
    found = said[0]["calibrated"]["pmi"]
    assert found[0] - found[1] == pytest.approx(pmi[0] - pmi[1], abs=1e-4)


def test_too_many_shots_are_told_how_many_fit(chatty: Callable[..., Path], ask: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=r"method\.shots: 12 demonstrations take") as told:
        ask(chatty(), method__shots=12)
    fit = int(str(told.value.hint).rpartition(" ")[2])
    assert 1 <= fit < 12
    ask(chatty(), method__shots=fit)
    with pytest.raises(RecipeError, match=r"method\.shots"):
        ask(chatty(), method__shots=fit + 1)


def test_what_is_refused(
    chatty: Callable[..., Path], ask: Callable[..., Any], recipe: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="the tokenizer has no chat template"):
        ask(chatty(None))
    with pytest.raises(RecipeError, match="calibrate channel: in a chat no answer stands before its question"):
        ask(chatty(), method__calibrate="channel")
    with pytest.raises(RecipeError, match="on_long truncate: a chat that is cut at its left has no first turn"):
        ask(chatty(), data__on_long="truncate")
    for rule in ({"method__chat": True}, {"method__chat": False, "method__replay": "lm-eval"}):
        with pytest.raises(RecipeError, match=r"--save: .* writes a question in a way of its own"):
            fewshot(recipe(chatty(), **rule), [].append, None, tmp_path / "adapter")
