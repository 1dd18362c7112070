"""Continuing texts: transformers' own greedy choice, token by token, with and without an adapter."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.adapter.attach import attach
from ctxtune.adapter.read import open_adapter
from ctxtune.commands.generate import RESULT, asks_of_jsonl, asks_of_prompts, generate, stream
from ctxtune.errors import AdapterError, DataError, ModelError, RecipeError

from ..conftest import CONTEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ctxtune.backend.load import Base


def run(
    prompts: Iterable[str], model: Path | None, adapter: Path | None = None, *, force: bool = False, max_tokens: int | None = 6,
    window: int = 1, notes: list[str] | None = None, **more: object,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    say = notes.append if notes is not None else lambda text: None
    given = flags(model, max_tokens=max_tokens, **more)
    return generate(asks_of_prompts(prompts), given, adapter, force, window, say)


def flags(model: Path | None, **settings: object) -> dict[str, object]:
    place = str(model) if model else None
    return {"model": place, "device": "cpu", **{f"generate.{name}": value for name, value in settings.items()}}


def greedy(base: Base, prompt: str, count: int) -> str:
    """The likeliest token again and again, each time from the whole text."""
    ids = base.tokenizer(prompt)["input_ids"]
    begun = len(ids)
    with torch.no_grad():
        while len(ids) < begun + count:
            ids.append(int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == base.tokenizer.eos_token_id:
                break
    text: str = base.tokenizer.decode(ids[begun:], skip_special_tokens=True)
    return text


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-untied"])
def test_greedy(kind: str, model_folders: dict[str, Path], open_base: Callable[[str], Base]) -> None:
    prompts = ["Review: great fun\nSentiment:", "It", "a ü 漢"]
    found = list(run(prompts, model_folders[kind]))
    base = open_base(kind)
    assert [one["prompt"] for one in found] == prompts
    assert [one["text"] for one in found] == [greedy(base, prompt, 6) for prompt in prompts]
    assert all(1 <= one["tokens"] <= 6 for one in found)


def test_with_an_adapter(
    adapt: Any, model_folders: dict[str, Path], open_base: Callable[[str], Base], tmp_path: Path
) -> None:
    adapt("llama-tied", more={"train.lr": 3e-2, "train.steps": 12, "method.layers": "all"})
    prompt = "Review: great fun\nSentiment:"
    base = open_base("llama-tied")
    plain = greedy(base, prompt, 4)
    attach(base.model, open_adapter(tmp_path / "run" / "adapter"))
    tuned = greedy(base, prompt, 4)
    assert plain != tuned
    for adapter in (
        tmp_path / "run",
        tmp_path / "run" / "adapter",
        tmp_path / "run" / "adapter" / "adapter_model.safetensors",
    ):
        assert [one["text"] for one in run([prompt], None, adapter, max_tokens=4)] == [tuned]


def test_a_learned_answer_comes_out(adapt: Any, tmp_path: Path) -> None:
    """Free answers learn where to end: the text is the answer, and the end-of-text token stops it."""
    adapt(
        "llama-untied",
        more={
            "train.lr": 1e-2,
            "train.steps": 60,
            "method.layers": "all",
            "data.choices": None,
            "data.answer": "{{ label }}",
        },
    )
    prompts = [f"Review: {text}\nSentiment:" for text in ("great fun", "terrible")]
    found = list(run(prompts, None, tmp_path / "run", max_tokens=20))
    assert [one["text"].strip() for one in found] == ["positive", "negative"]
    assert all(one["tokens"] < 20 for one in found)


def test_texts_come_one_by_one(model_folders: dict[str, Path]) -> None:
    asked: list[str] = []

    def prompts() -> Iterator[str]:
        for prompt in ("one", "two"):
            asked.append(prompt)
            yield prompt

    stream = run(prompts(), model_folders["llama-tied"])
    next(stream)
    assert asked == ["one"]
    next(stream)
    assert next(stream, None) is None


def test_no_prompts(model_folders: dict[str, Path]) -> None:
    assert list(run([], model_folders["llama-tied"])) == []


def test_sampling_is_seeded(model_folders: dict[str, Path]) -> None:
    def texts(seed: int, temperature: float = 2.0) -> list[str]:
        some = ["Review:", "Review:", "It was"]
        return [
            one["text"]
            for one in run(some, model_folders["llama-tied"], temperature=temperature, seed=seed, max_tokens=12)
        ]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)
    assert texts(1)[0] != texts(1)[1]
    assert texts(1, 0.0) == texts(2, 0.0)
    assert texts(1, 0.0)[0] == texts(1, 0.0)[1]


def test_the_context_is_not_overrun(model_folders: dict[str, Path]) -> None:
    prompt = "a" * 200
    base_tokens = CONTEXT - 3
    from ctxtune.backend.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model_folders["gpt2-tied"])
    ids = tokenizer(prompt)["input_ids"][:base_tokens]
    short = tokenizer.decode(ids)
    length = len(tokenizer(short)["input_ids"])
    (found,) = run([short], model_folders["gpt2-tied"], max_tokens=50)
    assert found["tokens"] <= CONTEXT - length < 50


@pytest.mark.parametrize(("kind", "prompt", "said"), [
    ("gpt2-tied", "", "prompt 1 is empty"),
    ("gpt2-tied", "x y z " * 40, "prompt 1 has .* tokens, the model reads 64"),
])  # fmt: skip
def test_prompts_that_cannot_be_continued(kind: str, prompt: str, said: str, model_folders: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=said):
        list(run([prompt], model_folders[kind]))


def test_the_wrong_prompt_is_named_and_the_right_ones_come_first(model_folders: dict[str, Path]) -> None:
    stream = run(["fine", ""], model_folders["gpt2-tied"])
    assert next(stream)["prompt"] == "fine"
    with pytest.raises(DataError, match="prompt 2 is empty"):
        next(stream)


def test_a_masked_model_does_not_continue(model_folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="a bert model fills gaps"):
        list(run(["It was"], model_folders["bert-tied"]))


def test_another_base_is_refused(adapt: Any, model_folders: dict[str, Path], tmp_path: Path) -> None:
    adapt("llama-tied")
    with pytest.raises(AdapterError, match="was made on"):
        list(run(["It was"], model_folders["llama-untied"], tmp_path / "run"))
    notes: list[str] = []
    assert len(list(run(["It was"], model_folders["llama-untied"], tmp_path / "run", force=True, notes=notes))) == 1
    assert any("was made on" in note for note in notes)


def test_a_tokenizer_with_more_tokens_than_the_model(model_folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = shutil.copytree(model_folders["llama-tied"], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["wonderful"])
    tokenizer.save_pretrained(model)
    assert len(list(run(["It was good"], model))) == 1
    with pytest.raises(ModelError, match="token"):
        list(run(["It was wonderful"], model))


def test_neither_model_nor_adapter(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="model"):
        list(run(["It was"], None))
    with pytest.raises(AdapterError, match="no adapter at"):
        list(run(["It was"], None, tmp_path / "nowhere"))


def test_windows_change_no_result(model_folders: dict[str, Path]) -> None:
    prompts = ["Review: great fun\nSentiment:", "It", "a ü 漢", "It", "Review:", "great " * 5, "x"]
    more: dict[str, Any] = {"max_tokens": 12, "stop": ["ga", "\n"]}
    for settings in (more, {**more, "temperature": 1.2, "top_k": 40, "seed": 5}):
        alone = list(run(prompts, model_folders["gpt2-tied"], **settings))
        assert {one["reason"] for one in alone} <= {"stop", "eos", "length"}
        for window in (2, 3, 7, 32):
            assert list(run(prompts, model_folders["gpt2-tied"], window=window, **settings)) == alone


def test_a_wrong_prompt_in_a_window_leaves_those_before_it_their_answers(model_folders: dict[str, Path]) -> None:
    stream = run(["fine", "too", "", "late"], model_folders["gpt2-tied"], window=32)
    assert [next(stream)["prompt"] for _ in range(2)] == ["fine", "too"]
    with pytest.raises(DataError, match="prompt 3 is empty"):
        next(stream)


def from_jsonl(lines: list[str], model: Path, **settings: object) -> list[dict[str, Any]]:
    return list(generate(asks_of_jsonl(lines), flags(model, **settings), None, False, 32, lambda text: None))


def test_rows_keep_their_fields(model_folders: dict[str, Path]) -> None:
    rows = [
        {"id": 7, "prompt": "It was", "more": {"a": [1, None]}},
        {"prompt": "a ü 漢", "label": "x"},
        {"prompt": "It"},
    ]
    found = from_jsonl([json.dumps(row) + "\n" for row in rows], model_folders["gpt2-tied"], max_tokens=5)
    plain = run([str(row["prompt"]) for row in rows], model_folders["gpt2-tied"], max_tokens=5)
    assert found == [{**row, **{key: one[key] for key in RESULT}} for row, one in zip(rows, plain, strict=True)]


@pytest.mark.parametrize(("line", "said"), [
    ("{", "stdin line 2.*broken JSON"),
    ("[]", "stdin line 2.*a list"),
    ('{"text": "x"}', "stdin line 2: the field 'prompt' is missing"),
    ('{"prompt": null}', "stdin line 2: the field 'prompt' is no text"),
    ('{"prompt": "x", "reason": 1}', "stdin line 2: the field 'reason' is where the result goes"),
    ('{"prompt": ""}', "stdin line 2 is empty"),
    ('{"prompt": "x", "prompt": "y"}', "stdin line 2.*stands twice"),
])  # fmt: skip
def test_a_wrong_row_is_named(line: str, said: str, model_folders: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=said):
        from_jsonl(['{"prompt": "fine"}\n', line + "\n"], model_folders["gpt2-tied"])


@pytest.mark.parametrize(("settings", "said"), [
    ({"max_tokens": 0}, "max_tokens"), ({"temperature": -1.0}, "temperature"), ({"temperature": float("nan")}, "temperature"),
    ({"top_p": 0.0}, "top_p"), ({"top_k": -1}, "top_k"), ({"min_p": 1.5}, "min_p"), ({"repetition_penalty": 0.0}, "penalty"),
    ({"seed": 2**32}, "seed"), ({"stop": [""]}, "stop"),
])  # fmt: skip
def test_settings_out_of_bounds(settings: dict[str, object], said: str, model_folders: dict[str, Path]) -> None:
    with pytest.raises(RecipeError, match=said):
        list(run(["x"], model_folders["gpt2-tied"], **{"max_tokens": 6, **settings}))  # type: ignore[arg-type]


def test_a_filter_without_sampling_is_mentioned(model_folders: dict[str, Path]) -> None:
    notes: list[str] = []
    list(run(["x"], model_folders["gpt2-tied"], notes=notes, top_p=0.5))
    assert "top_p, top_k and min_p change nothing at temperature 0" in notes
    assert any(note.endswith("tokens/s") for note in notes)


def test_a_text_that_fills_the_context_is_mentioned_once(
    model_folders: dict[str, Path], open_base: Callable[[str], Base]
) -> None:
    base, notes = open_base("gpt2-tied"), list[str]()
    one = base.tokenizer("fun" * 200)["input_ids"][: base.max_length - 2]
    prompt = base.tokenizer.decode(one)
    found = list(run([prompt, prompt], model_folders["gpt2-tied"], notes=notes, max_tokens=20))
    assert {answer["reason"] for answer in found} == {"context"}
    said = f"the model reads {base.max_length} tokens, prompt and answer together: a text ended there, unfinished"
    assert notes.count(said) == 1


def test_an_adapter_remembers_how_it_ends(adapt: Any, tmp_path: Path) -> None:
    """What the recipe says of generating goes with the adapter; the command line still wins."""
    adapt("llama-tied", more={"generate.max_tokens": 3, "generate.stop": ["qqq"]})
    for place in (tmp_path / "run", tmp_path / "run" / "adapter"):
        (one,) = run(["It was"], None, place, max_tokens=None)
        assert (one["tokens"], one["reason"]) == (3, "length")
        (one,) = run(["It was"], None, place, max_tokens=5)
        assert one["tokens"] == 5


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "stop": ["e"]}], ids=str)
def test_a_stream_is_the_result(settings: dict[str, Any], model_folders: dict[str, Path]) -> None:
    prompt, notes = "Review: great fun", list[str]()
    (whole,) = run([prompt], model_folders["gpt2-tied"], max_tokens=20, **settings)
    pieces = stream(prompt, flags(model_folders["gpt2-tied"], max_tokens=20, **settings), None, False, notes.append)
    assert "".join(pieces) == whole["text"]
    assert notes[-1].startswith(f"{whole['tokens']} tokens, ")
