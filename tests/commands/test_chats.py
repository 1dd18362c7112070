"""Chat rows from the file to the adapter: what is learned, what is remembered, and what is refused."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.adapter.read import open_adapter
from ctxtune.backend.load import load_base
from ctxtune.commands.adapt import adapt as adapt_command
from ctxtune.commands.dry_run import dry_run
from ctxtune.commands.evaluate import evaluate
from ctxtune.errors import DataError, ModelError, RecipeError
from ctxtune.recipe.load import load

from ..conftest import Listener, same_tensors, write_jsonl

if TYPE_CHECKING:
    from pathlib import Path

    from ctxtune.recipe.load import Resolved

TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{{ m['role'][0] + ':' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '</s>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '</s>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)
FORGETFUL = TEMPLATE.replace(
    "m['content'] + '</s>' }}{% endgen", "(m['content'] if loop.last else '-') + '</s>' }}{% endgen"
)


def talk(*said: str) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]}


ROWS = [
    talk("is it good?", "good", "sure?", "yes"),
    talk("is it bad?", "no, it is good"),
    talk("dull", "bad", "fun", "good", "so?"),
    talk("what was it?", "a film"),
    {"messages": [{"role": "system", "content": "be brief"}, *talk("and?", "yes")["messages"]]},
]


@pytest.fixture
def model(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A model of the reviews' family that was made for chats."""
    folder = shutil.copytree(model_folders["llama-tied"], tmp_path / "chatty")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "chats.jsonl", ROWS)


def resolved(model: Path, rows: Path, out: Path, **more: Any) -> Resolved:
    flags = {
        "model": str(model), "data.train": str(rows), "data.messages": "messages", "method.name": "freeze",
        "method.layers": "last:1", "train.batch": 4, "train.steps": 2, "train.lr": 1e-3, "device": "cpu",
        "forget.probe": "none", "cache": "memory", "out": str(out), **{k.replace("__", "."): v for k, v in more.items()},
    }  # fmt: skip
    return load(None, flags)


def run(*given: Any, **more: Any) -> tuple[dict[str, Any], list[str]]:
    listener = Listener()
    return adapt_command(resolved(*given, **more), False, listener), listener.notes


def scores(adapter: Path | None, force: bool = False, **flags: Any) -> dict[str, float]:
    given = {"device": "cpu", **{key.replace("__", "."): value for key, value in flags.items()}}
    found: dict[str, float] = evaluate(None, given, [], adapter, force, lambda text: None)["scores"]
    return found


def marked(model: Path) -> list[tuple[list[int], list[int]]]:
    """Tokens and learned places of every conversation, as the marks in the template have them."""
    tokenizer = load_base(model, "cpu").tokenizer
    made = [
        tokenizer.apply_chat_template(r["messages"], return_assistant_tokens_mask=True, return_dict=True) for r in ROWS
    ]
    return [(one["input_ids"], [i for i, mark in enumerate(one["assistant_masks"]) if mark]) for one in made]


def test_scores_by_hand(model: Path, rows: Path) -> None:
    found = scores(None, model=str(model), data__eval=str(rows), data__messages="{{ messages }}")
    base = load_base(model, "cpu")
    nats, count = [], 0
    for ids, places in marked(model):
        with torch.no_grad():
            told = base.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nats.append(-sum(told[i - 1, ids[i]].item() for i in places))
        count += len(places)
    assert found["loss"] == pytest.approx(sum(nats) / len(nats), abs=1e-4)
    assert found["token_perplexity"] == pytest.approx(torch.tensor(sum(nats) / count).exp().item(), rel=1e-4)
    assert found["rows"] == len(ROWS)


def test_a_run(model: Path, rows: Path, tmp_path: Path) -> None:
    more = {"data__eval": str(rows), "train__steps": 30, "train__lr": 1e-2, "method__layers": "last:2"}
    foreseen = dry_run(resolved(model, rows, tmp_path / "run", **more))
    facts, _ = run(model, rows, tmp_path / "run", **more)
    expected = marked(model)
    assert facts["train"]["supervised_tokens"] == foreseen["supervised_tokens"] == sum(len(p) for _, p in expected)
    assert facts["train"]["tokens"] == sum(places[-1] for _, places in expected)
    before, after = facts["scores"]["before"], facts["scores"]["after"]
    assert after["loss"] < before["loss"]
    again = scores(tmp_path / "run", data__eval=str(rows))
    assert {key: again[key] for key in after} == pytest.approx(after, abs=1e-5)
    recipe = load(str(tmp_path / "run" / "recipe.yaml"), {"out": str(tmp_path / "again")})
    assert recipe.recipe.data.messages == "messages"
    assert recipe.recipe.inputs is not None
    assert recipe.recipe.inputs.keys() == {"train", "eval", "model", "chat_template"}
    adapt_command(recipe, False, Listener())
    first, second = (open_adapter(tmp_path / name / "adapter") for name in ("run", "again"))
    assert first.manifest is not None
    assert first.manifest.inputs["chat_template"] == recipe.recipe.inputs["chat_template"]
    assert first.path.read_bytes()[-4096:] == second.path.read_bytes()[-4096:]


def test_the_template_in_use_is_the_one_that_was_learned(model: Path, rows: Path, tmp_path: Path) -> None:
    run(model, rows, tmp_path / "run")
    expected = scores(tmp_path / "run", data__eval=str(rows))
    (model / "chat_template.jinja").write_text(TEMPLATE.replace("'<s>'", "'<s><s>'"), encoding="utf-8")
    with pytest.raises(ModelError, match=r"chat template is another one than inputs\.chat_template names"):
        scores(tmp_path / "run", data__eval=str(rows))
    assert scores(tmp_path / "run", True, data__eval=str(rows))["loss"] != expected["loss"]
    recipe = load(str(tmp_path / "run" / "recipe.yaml"), {"out": str(tmp_path / "again")})
    with pytest.raises(ModelError, match="chat template is another one"):
        adapt_command(recipe, False, Listener())


def test_the_last_reply_alone(model: Path, rows: Path, tmp_path: Path) -> None:
    facts, _ = run(model, rows, tmp_path / "run", data__learn="last")
    runs = [[i for i in places if all(j in places for j in range(i, places[-1]))] for _, places in marked(model)]
    assert facts["train"]["supervised_tokens"] == sum(map(len, runs)) < sum(len(p) for _, p in marked(model))


def test_a_forgetful_template_is_told(model: Path, rows: Path, tmp_path: Path) -> None:
    (model / "chat_template.jinja").write_text(FORGETFUL, encoding="utf-8")
    facts, notes = run(model, rows, tmp_path / "run")
    assert facts["train"]["rows"] == 7
    assert any("rewrites earlier turns: 2 conversations became several examples" in note for note in notes)
    whole = scores(None, model=str(model), data__eval=str(rows), data__messages="messages")
    assert whole["rows"] == len(ROWS)  # a conversation is one row however many examples it takes
    both, first = (
        scores(
            None,
            model=str(model),
            data__eval=str(write_jsonl(tmp_path / "one.jsonl", [row])),
            data__messages="messages",
        )
        for row in (ROWS[0], {"messages": ROWS[0]["messages"][:2]})
    )
    assert first["loss"] < both["loss"]  # all replies of a row count


def test_long_conversations_are_dropped_or_cut_and_counted(model: Path, rows: Path, tmp_path: Path) -> None:
    lengths = sorted(places[-1] for _, places in marked(model))
    limit = lengths[-2]
    with pytest.raises(DataError, match=rf"chats\.jsonl line \d: {lengths[-1]} tokens are more than {limit}"):
        run(model, rows, tmp_path / "error", data__max_length=limit)
    facts, notes = run(model, rows, tmp_path / "drop", data__max_length=limit, data__on_long="drop")
    assert (facts["train"]["dropped"], facts["train"]["rows"]) == (1, 4)
    assert any("1 of 5 training rows were too long and dropped" in note for note in notes)
    facts, _ = run(model, rows, tmp_path / "cut", data__max_length=limit, data__on_long="truncate")
    assert (facts["train"]["truncated"], facts["train"]["rows"]) == (1, 5)


def test_fields_that_tools_may_be_missing_from(model: Path, rows: Path, tmp_path: Path) -> None:
    plain, _ = run(model, rows, tmp_path / "plain")
    tools, _ = run(model, rows, tmp_path / "tools", data__tools="tools")
    assert tools["train"] == plain["train"]
    from safetensors.torch import load_file

    one, other = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("plain", "tools"))
    assert same_tensors(one, other)
    with pytest.raises(DataError, match=r"chats\.jsonl line 1: no field 'tools'"):
        run(model, rows, tmp_path / "strict", data__tools="{{ tools }}")


@pytest.mark.parametrize(
    ("kind", "said"),
    [("llama-tied", "the tokenizer has no chat template"), ("bert-tied", "a bert model fills gaps, it does not reply")],
)
def test_models_that_know_no_chats(
    kind: str, said: str, rows: Path, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    for command in (dry_run, lambda recipe: adapt_command(recipe, False, Listener())):
        with pytest.raises(ModelError, match=said):
            command(resolved(model_folders[kind], rows, tmp_path / "run"))


def test_a_wrong_row_is_named_before_the_model_is_opened(tmp_path: Path, model: Path) -> None:
    rows = write_jsonl(tmp_path / "chats.jsonl", [*ROWS, talk("nobody answers")])
    with pytest.raises(DataError, match=r"chats\.jsonl line 6: data\.messages: no supervised tokens"):
        dry_run(resolved(model, rows, tmp_path / "run"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"data__prompt": "{{ text }}"}, "data: prompt has no place beside messages"),
        ({"data__choices": ["a", "b"]}, "data: choices has no place beside messages"),
        ({"data__instruction": "Be brief."}, "data: instruction has no place beside messages"),
        ({"data__messages": None, "data__tools": "tools"}, "--tools: data: tools are called in a chat"),
    ],
)
def test_one_form_of_rows(more: dict[str, Any], said: str, model: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(model, rows, tmp_path / "run", **more)
    assert said in str(caught.value)


def test_a_text_file_of_conversations_is_not_running_text(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "chats.txt"
    path.write_text("is it good?\n", encoding="utf-8")
    template = "{{ [{'role': 'user', 'content': text}, {'role': 'assistant', 'content': 'yes'}] }}"
    assert scores(None, model=str(model), data__eval=str(path), data__messages=template)["rows"] == 1
