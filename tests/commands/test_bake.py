"""A learned prompt as words of a checkpoint: plain transformers says the same, and never says one of the words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxtune.adapter.read import open_adapter
from ctxtune.commands.adapt import adapt
from ctxtune.commands.adapter import export
from ctxtune.errors import AdapterError, CtxtuneError, ModelError, RecipeError

from ..conftest import Listener, save_chatty
from ..test_prompt_laws import KINDS as CAUSAL_KINDS
from .test_prompt import asked, dev, short, train  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base


def baked(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and model that a run becomes, as plain transformers loads them."""
    exported = export(folder / "run", "model", folder / "baked")
    assert exported.baked is not None
    assert exported.baked.share < 1e-6
    assert exported.baked.difference < 1e-5
    plain = AutoModelForCausalLM.from_pretrained(folder / "baked", dtype=torch.float32).eval()
    return AutoTokenizer.from_pretrained(folder / "baked"), plain


@pytest.mark.parametrize("model", CAUSAL_KINDS)
def test_plain_transformers_says_the_same(
    model: str,
    model_folders: dict[str, Path],
    train: Path,  # noqa: F811
    tmp_path: Path,
    open_base: Callable[[str], Base],
) -> None:
    from ctxtune.adapter.keys import held_prefix
    from ctxtune.backend.prefix import going_on
    from ctxtune.backend.trunk import Trunk

    adapt(asked(model_folders[model], train, tmp_path / "run", {"method.kind": "input"}), False, Listener())
    tokenizer, plain = baked(tmp_path)
    base = open_base(model)
    trunk = Trunk(base)
    prefix = held_prefix(trunk, open_adapter(tmp_path / "run"))
    text = "Review: a fine film\nSentiment:"
    read = base.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = tokenizer(text)["input_ids"]
    assert ids[-len(read) :] == read
    words = ids[: -len(read)]
    assert tokenizer.convert_ids_to_tokens(words) == [f"<|virtual-{n}|>" for n in range(len(prefix.tokens))]
    with torch.no_grad():
        tensor = torch.tensor([read])
        known = base.model(input_ids=tensor, **going_on(trunk, prefix, torch.ones_like(tensor))).logits[0]
        said = plain(input_ids=torch.tensor([ids])).logits[0, len(words) :]
    size = len(base.tokenizer)
    torch.testing.assert_close(said[:, :size].log_softmax(-1), known[:, :size].log_softmax(-1), rtol=0, atol=1e-5)
    torch.manual_seed(0)
    written = plain.generate(torch.tensor([ids[:-1]]), max_new_tokens=24, do_sample=True, temperature=2.0)
    assert not set(written[0, len(ids) - 1 :].tolist()) & set(words)
    assert set(plain.generation_config.suppress_tokens) == set(words)
    assert plain.config.get_text_config().tie_word_embeddings is False


def test_a_chat_begins_with_the_words(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = save_chatty(model_folders["llama-tied"], tmp_path / "chatty", 64)
    adapt(asked(folder, train, tmp_path / "run", {"method.kind": "residual"}), False, Listener())
    export(tmp_path / "run", "model", tmp_path / "baked")
    old, new = (AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "baked"))
    turns = [{"role": "user", "content": "a fine film"}]
    before, after = (one.apply_chat_template(turns, add_generation_prompt=True, tokenize=False) for one in (old, new))
    assert after.endswith(before)
    assert after.removesuffix(before).startswith("<|virtual-0|><|virtual-1|>")


def test_another_type(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:  # noqa: F811
    adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", {"method.kind": "ptuning"}), False, Listener())
    export(tmp_path / "run", "model", tmp_path / "baked", dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "baked").dtype is torch.bfloat16


def test_what_it_refuses(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:  # noqa: F811
    model = model_folders["llama-tied"]
    adapt(asked(model, train, tmp_path / "keys"), False, Listener())
    adapt(asked(model, train, tmp_path / "run", {"method.kind": "input"}), False, Listener())
    with pytest.raises(AdapterError, match="holds keys and values"):
        export(tmp_path / "keys", "model", tmp_path / "out")
    with pytest.raises(RecipeError, match="--dtype 'int8'"):
        export(tmp_path / "run", "model", tmp_path / "out", dtype="int8")
    with pytest.raises(RecipeError, match="--dtype is for --to model"):
        export(tmp_path / "run", "peft", tmp_path / "out", dtype="float32")
    with pytest.raises(RecipeError, match="cannot be exported to 'gguf'"):
        export(tmp_path / "run", "gguf", tmp_path / "out")
    with pytest.raises(AdapterError, match="was made on"):
        export(tmp_path / "run", "model", tmp_path / "out", model=str(model_folders["llama-untied"]))
    assert not (tmp_path / "out").exists()
    export(tmp_path / "run", "model", tmp_path / "out")
    with pytest.raises(CtxtuneError, match="out"):
        export(tmp_path / "run", "model", tmp_path / "out")
    twice: dict[str, Any] = {"method.kind": "input"}
    adapt(asked(tmp_path / "out", train, tmp_path / "again", twice), False, Listener())
    with pytest.raises(CtxtuneError, match="virtual-0"):
        export(tmp_path / "again", "model", tmp_path / "out2")
    assert short(1)


@pytest.mark.parametrize("model", CAUSAL_KINDS)
def test_words_behind_a_text(
    model: str,
    model_folders: dict[str, Path],
    train: Path,  # noqa: F811
    tmp_path: Path,
    open_base: Callable[[str], Base],
) -> None:
    """Plain transformers says behind them what the model says behind the suffix."""
    from ctxtune.adapter.attach import attach
    from ctxtune.data.encode import encode_prompt

    adapt(asked(model_folders[model], train, tmp_path / "run", {"method.kind": "suffix"}), False, Listener())
    if model == "gemma3_text-tied":  # its random states, before the words and behind them, point everywhere
        with pytest.raises(ModelError, match="no direction in common"):
            export(tmp_path / "run", "model", tmp_path / "baked")
        assert not (tmp_path / "baked").exists()
        return
    tokenizer, plain = baked(tmp_path)
    base = open_base(model)
    attach(base.model, open_adapter(tmp_path / "run"))
    read = encode_prompt(base.tokenizer, "Review: a fine film")
    ids = tokenizer("Review: a fine film")["input_ids"]
    words = ids[len(read) :]
    assert ids[: len(read)] == read
    assert tokenizer.convert_ids_to_tokens(words) == [f"<|virtual-{n}|>" for n in range(8)]
    with torch.no_grad():
        known = base.model(input_ids=torch.tensor([[*read, *range(-1, -9, -1), 7]])).logits[0]
        said = plain(input_ids=torch.tensor([[*ids, 7]])).logits[0]
    size = len(base.tokenizer)
    torch.testing.assert_close(said[:, :size].log_softmax(-1), known[:, :size].log_softmax(-1), rtol=0, atol=1e-5)


def test_a_chat_ends_with_the_words(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:  # noqa: F811
    """Where the model is to speak, and nowhere else."""
    folder = save_chatty(model_folders["llama-tied"], tmp_path / "chatty", 64)
    adapt(asked(folder, train, tmp_path / "run", {"method.kind": "suffix"}), False, Listener())
    export(tmp_path / "run", "model", tmp_path / "baked")
    old, new = (AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "baked"))
    turns = [{"role": "user", "content": "a fine film"}]
    for speak in (True, False):
        before, after = (
            one.apply_chat_template(turns, add_generation_prompt=speak, tokenize=False) for one in (old, new)
        )
        assert after.startswith(before)
        assert after.removeprefix(before).startswith("<|virtual-0|><|virtual-1|>") is speak
