"""Continuing texts: transformers' own greedy choice, token by token, with and without an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.adapter.attach import attach
from ctxtune.adapter.read import open_adapter
from ctxtune.commands.generate import generate
from ctxtune.errors import AdapterError, DataError, ModelError, RecipeError

from ..conftest import CONTEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ctxtune.backend.load import Base


def run(
    prompts: Iterable[str], model: Path | None, adapter: Path | None = None, *, force: bool = False, max_tokens: int = 6,
    temperature: float = 0.0, seed: int = 0, notes: list[str] | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    flags: dict[str, object] = {"model": str(model) if model else None, "device": "cpu"}
    say = notes.append if notes is not None else lambda text: None
    return generate(prompts, flags, adapter, force, max_tokens, temperature, seed, say)


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
    from ctxtune.backend.load import load_tokenizer

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
    import shutil

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
