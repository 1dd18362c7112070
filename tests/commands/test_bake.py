"""A learned prompt as words of a checkpoint: plain transformers says the same, and never says one of the words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxtune.adapter.read import open_adapter
from ctxtune.commands.adapt import adapt
from ctxtune.commands.data import show
from ctxtune.commands.evaluate import evaluate
from ctxtune.commands.export import export
from ctxtune.commands.fewshot import fewshot
from ctxtune.commands.generate import asks_of_prompts, generate
from ctxtune.data.chat import scripts
from ctxtune.data.encode import EncodeSpec
from ctxtune.data.messages import Conversation
from ctxtune.data.read import Row
from ctxtune.data.render import compile_template
from ctxtune.errors import AdapterError, CtxtuneError, ModelError, RecipeError
from ctxtune.methods.fewshot import formed
from ctxtune.recipe.load import load

from ..conftest import CHOICES, PROMPT, Listener, save_chatty
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


@pytest.mark.parametrize("kind", ["suffix", "input"])
def test_its_card_and_what_is_said_meanwhile(
    kind: str, model_folders: dict[str, Path], train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    """The card's Python runs as it stands, the folder is as readable as any, and nobody waits in silence."""
    adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", {"method.kind": kind}), False, Listener())
    said: list[str] = []
    exported = export(tmp_path / "run", "model", tmp_path / "baked", say=said.append)
    assert [line.partition(" the ")[0] for line in said if "so far" not in line] == [
        "reading", f"writing {tmp_path / 'baked'}", "reading",
    ]  # fmt: skip
    files = sorted((tmp_path / "baked").iterdir())
    assert {file.stat().st_mode for file in files} == {(tmp_path / "run" / "adapter" / "README.md").stat().st_mode}
    assert exported.num_bytes == sum(file.stat().st_size for file in files)
    card, manifest = (tmp_path / "baked" / "README.md").read_text(), open_adapter(tmp_path / "run").manifest
    assert manifest is not None
    assert f"kind {kind}" in card
    assert f"`{manifest.base.fingerprint}`" in card
    assert "`<|virtual-0|>` to `<|virtual-" in card
    assert manifest.recipe.strip() in card
    assert ("gets them behind the answer" in card) is (kind == "suffix")
    monkeypatch.chdir(tmp_path / "baked")
    code, names = card.partition("```python\n")[2].partition("```")[0], {}
    exec(code.replace("PROMPT", "Review: fine"), names)
    assert names["told"].shape[1] > names["ids"].input_ids.shape[1]


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
    from ctxtune.data.prompt import encode_prompt

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


def scored(dev: Path, folder: Path, **which: Any) -> tuple[dict[str, float], list[Any]]:  # noqa: F811
    """What `eval` says of the rows, with the tasks' prompt and choices: the scores, and what each row gave."""
    flags = {"data.eval": str(dev), "data.prompt": PROMPT, "data.answer": "{{ label }}", "data.choices": CHOICES}
    adapter, more = which.pop("adapter", None), {**flags, "device": "cpu", **which}
    save = folder / f"items-{'adapter' if adapter else 'model'}.jsonl"
    facts = evaluate(None, more, [], adapter, False, lambda _: None, save)
    return facts["scores"], [json.loads(line)["said"]["ll"] for line in save.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["suffix", "input"])
@pytest.mark.parametrize("model", ["llama-tied", "qwen3-sliding-tied", "gpt2-tied"])
def test_what_ctxtune_says_of_it_is_what_it_says_of_the_adapter(
    kind: str, model: str, model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path,  # noqa: F811
) -> None:  # fmt: skip
    """Chosen and written answers; behind cut prompts and none too."""
    more = {"method.kind": kind, "train.lr": 3e-2, "method.tokens": 8}
    adapt(asked(model_folders[model], train, tmp_path / "run", more), False, Listener())
    export(tmp_path / "run", "model", tmp_path / "baked")
    base, _ = scored(dev, tmp_path, model=str(model_folders[model]))
    cut = {"data.max_length": 20, "data.on_long": "truncate"}
    for ask in ({}, cut, *([{"data.prompt": ""}] if kind == "input" else [])):  # of no text at all no probe tells
        known, lls = scored(dev, tmp_path, adapter=tmp_path / "run", **ask)
        told, said = scored(dev, tmp_path, model=str(tmp_path / "baked"), **ask)
        assert told == pytest.approx(known, abs=1e-5)
        assert np.abs(np.array(said) - np.array(lls)).max() < 1e-5
        assert bool(told["truncated"]) is (ask is cut)
    assert abs(base["loss"] - scored(dev, tmp_path, model=str(tmp_path / "baked"))[0]["loss"]) > 1e-3

    def written(flags: dict[str, Any], adapter: Path | None) -> list[str]:
        prompts = asks_of_prompts(["Review: a fine film\nSentiment:", "Review: no\nSentiment:"])
        flags = {"generate.max_tokens": 8, "device": "cpu", **flags}
        return [one["text"] for one in generate(prompts, flags, adapter, False, 4, lambda _: None)]

    told = written({"model": str(tmp_path / "baked")}, None)
    assert told == written({}, tmp_path / "run")
    assert told != written({"model": str(model_folders[model])}, None)


@pytest.fixture
def suffixed(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> tuple[Path, Path]:  # noqa: F811
    """A model that knows chats, and what it becomes with a suffix of its own."""
    folder = save_chatty(model_folders["llama-tied"], tmp_path / "chatty", 96)
    adapt(asked(folder, train, tmp_path / "run", {"method.kind": "suffix"}), False, Listener())
    export(tmp_path / "run", "model", tmp_path / "baked")
    return folder, tmp_path / "baked"


WORDS = "".join(f"<|virtual-{n}|>" for n in range(8))


def shot_run(model: Path, train: Path, dev: Path, **more: object) -> dict[str, Any]:  # noqa: F811
    flags = {
        "model": str(model), "data.train": str(train), "data.eval": str(dev), "data.prompt": PROMPT,
        "data.answer": "{{ label }}", "data.choices": CHOICES, "method.name": "fewshot", "method.shots": 1,
        "method.select": "fixed", "device": "cpu", "cache": "off",
    }  # fmt: skip
    return fewshot(load(None, {**flags, **{key.replace("__", "."): value for key, value in more.items()}}), print)


def test_questions_behind_examples_end_with_the_words(
    suffixed: tuple[Path, Path], train: Path, dev: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    """Each example as it is; plain transformers, told the whole text, says the same. As turns of a chat they stand once."""
    old, new = (AutoTokenizer.from_pretrained(path) for path in suffixed)
    plain = AutoModelForCausalLM.from_pretrained(suffixed[1], dtype=torch.float32).eval()
    rows = [json.loads(line) for line in (*train.read_text().splitlines()[:1], *dev.read_text().splitlines())]
    losses = []
    for row in rows[1:]:
        shot, text = (PROMPT.replace("{{ text }}", one["text"]) for one in (rows[0], row))
        front, lls = f"{shot} {rows[0]['label']}\n\n{text}", []
        for choice in CHOICES:
            begin, whole = (old(one)["input_ids"] for one in (front, f"{front} {choice}"))
            said = whole[len(begin) :]
            ids = [*begin, *new.convert_tokens_to_ids(new.tokenize(WORDS)), *said]
            with torch.no_grad():
                logs = plain(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            lls.append(sum(float(logs[len(ids) - len(said) + at - 1, token]) for at, token in enumerate(said)))
        losses.append(-torch.tensor(lls)[CHOICES.index(row["label"])])
    assert shot_run(suffixed[1], train, dev)["scores"]["loss"] == pytest.approx(float(sum(losses)) / 10, abs=1e-4)
    spec = EncodeSpec(new, "causal", compile_template(PROMPT, ""), None, tuple(CHOICES), 96)
    settings = load(
        None, {"model": "m", "method.name": "fewshot", "method.chat": True, "method.shots": 0}
    ).recipe.method
    chat = formed(spec, settings).encode_question(Row(rows[0], "row", 1))
    assert new.decode(chat).count("virtual-0") == 1


@pytest.mark.parametrize(
    "how", [{"method__replay": "lm-eval", "method__select": "random"}, {"method__calibrate": "channel"}]
)
def test_rules_with_no_place_for_the_words(
    how: dict[str, Any], suffixed: tuple[Path, Path], train: Path, dev: Path  # noqa: F811
) -> None:  # fmt: skip
    with pytest.raises(ModelError, match="words of its own behind what is asked"):
        shot_run(suffixed[1], train, dev, **how)


def test_what_is_learned_behind_the_words(suffixed: tuple[Path, Path], train: Path, tmp_path: Path) -> None:  # noqa: F811
    """Rows and chats: each reply behind what the model will read before it."""
    rows = asked(suffixed[1], train, tmp_path / "more", {"method.kind": "input"})
    (row,) = show(rows, 1, 1, False)
    prompt, answer = row.pieces
    assert prompt.text.endswith(f"Sentiment:{WORDS}")
    assert answer.text.strip() in CHOICES
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate("abcd")]
    old, new = (AutoTokenizer.from_pretrained(path) for path in suffixed)
    written = scripts(new, Conversation(tuple(turns)), "row", "all")
    before = scripts(old, Conversation(tuple(turns)), "row", "all")[0]
    for one, reply, (begin, end) in zip(written, (1, 3), before.spans, strict=True):
        ((start, stop),) = one.spans
        assert one.text[:start] == new.apply_chat_template(turns[:reply], add_generation_prompt=True, tokenize=False)
        assert one.text[:start].endswith(WORDS)
        assert one.text[start:stop] == before.text[begin:end]


def test_words_that_give_way(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:  # noqa: F811
    adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", {"method.kind": "input"}), False, Listener())
    export(tmp_path / "run", "model", tmp_path / "baked")
    listener = Listener()
    adapt(asked(tmp_path / "baked", train, tmp_path / "again", {"method.kind": "input"}), False, listener)
    assert any("give way to the virtual tokens" in note for note in listener.notes)
