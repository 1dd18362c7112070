"""Continued pretraining: a base goes on learning text by every method, and its numbers are those of transformers."""

from __future__ import annotations

import gzip
import io
import json
import math
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.backend.load import load_base
from ctxtune.commands.adapt import adapt as command
from ctxtune.commands.choose_only import choose_only
from ctxtune.commands.data import show, stats
from ctxtune.commands.dry_run import dry_run
from ctxtune.commands.evaluate import evaluate
from ctxtune.commands.interpolate import interpolate
from ctxtune.errors import CtxtuneError, DataError, ModelError, RecipeError
from ctxtune.recipe.load import load

from ..conftest import (
    BAD,
    GOOD,
    Killed,
    Listener,
    adapter_tensors,
    kill_at,
    losses,
    same_tensors,
    text_by_hand,
    write_jsonl,
)  # fmt: skip
from ..test_laws import assert_same_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base

    Learn = Callable[..., dict[str, Any]]

LENGTH = 24
METHODS: dict[str, dict[str, Any]] = {
    "freeze": {"method.name": "freeze", "method.layers": "last:2"},
    "full": {"method.name": "freeze", "method.layers": "all"},
    "mask": {"method.name": "mask", "method.select": "random", "method.density": 0.1},
    "contrast": {"method.name": "mask", "method.score_batches": 2},
    "prefix": {"method.name": "prompt", "method.tokens": 4},
    "input": {"method.name": "prompt", "method.tokens": 4, "method.kind": "input", "method.init": "vocab"},
}


def texts(count: int, offset: int = 0) -> list[str]:
    """Documents of several lengths, no two alike."""
    every = [*GOOD, *BAD]
    return [
        "\n".join(
            f"{number}. {every[(number + i) % 8]}, ünd {every[(3 * number + i) % 8]}." for i in range(number % 5 + 1)
        )
        for number in range(offset, offset + count)
    ]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "train.jsonl", [{"text": text} for text in texts(24)])


@pytest.fixture
def held(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "held.jsonl", [{"text": text} for text in texts(6, 40)])


@pytest.fixture
def learn(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> Learn:
    """learn(method, out, more, ...): a short run over the text, or what `run` makes of its recipe; returns facts."""

    def learn(
        method: str = "freeze", out: str = "run", more: dict[str, Any] | None = None, resume: bool = False,
        at: Any = lambda facts: None, kind: str = "llama-tied", run: Any = None,
    ) -> dict[str, Any]:  # fmt: skip
        given = {
            "model": str(model_folders[kind]), "data.train": str(train), "data.text": "{{ text }}",
            "data.max_length": LENGTH, "train.batch": 8, "train.steps": 6, "train.lr": 3e-3, "device": "cpu",
            "forget.probe": "none", "cache": "memory", "out": str(tmp_path / out), **METHODS[method],
        }  # fmt: skip
        resolved = load(None, given | (more or {}))
        return command(resolved, resume, Listener(at)) if run is None else run(resolved)

    return learn


def by_hand(base: Base, some: list[str]) -> tuple[float, int]:
    """The log-probability of texts by plain forward passes, and their tokens."""
    tokens = sum(len(base.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in some)
    return sum(text_by_hand(base, text, LENGTH) for text in some), tokens


@pytest.mark.parametrize("method", METHODS)
def test_a_base_goes_on(method: str, learn: Learn, held: Path, tmp_path: Path) -> None:
    facts = learn(method, more={"data.eval": str(held), "train.steps": 20, "train.lr": 1e-2})
    before, after = facts["scores"]["before"], facts["scores"]["after"]
    if method not in ("prefix", "input"):
        assert after["perplexity"] < before["perplexity"]
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    told = evaluate(None, {"data.eval": str(held)}, [], tmp_path / "run", False, lambda text: None)["scores"]
    assert told["loss"] == pytest.approx(after["loss"], abs=1e-5)
    assert told["tokens"] == before["tokens"] == after["tokens"]


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-untied"])
def test_the_numbers_are_those_of_transformers(
    kind: str, learn: Learn, held: Path, tmp_path: Path, captured: list[Base], model_folders: dict[str, Path]
) -> None:
    more = {"data.eval": str(held), "train.batch": 1000, "train.steps": 2}
    facts = learn("freeze", more=more, kind=kind)
    base = load_base(model_folders[kind], "cpu")
    for when, model in (("before", base), ("after", captured[0])):
        nats, tokens = by_hand(model, texts(6, 40))
        told = facts["scores"][when]
        assert told["tokens"] == tokens
        assert told["loss"] == pytest.approx(-nats / tokens, rel=1e-5)
        assert told["perplexity"] == pytest.approx(math.exp(-nats / tokens), rel=1e-5)
        size = sum(len(text.encode()) for text in texts(6, 40))
        assert told["bits_per_byte"] == pytest.approx(-nats / math.log(2) / size, rel=1e-5)
    nats, tokens = by_hand(base, texts(24))  # the first step reads all of it
    assert losses(tmp_path / "run")[0] == pytest.approx(-nats / tokens, rel=1e-5)
    assert facts["train"]["supervised_tokens"] == tokens


@pytest.mark.parametrize("method", ["freeze", "mask", "prefix"])
def test_kept_states_packed_rows_and_parts_change_no_loss(method: str, learn: Learn, tmp_path: Path) -> None:
    learn(method, "kept")
    learn(method, "off", {"cache": "off"})
    learn(method, "parts", {"train.micro_batch": 1})
    learn(method, "packed", {"train.pack": True})
    for out in ("off", "parts", "packed"):
        assert losses(tmp_path / out) == pytest.approx(losses(tmp_path / "kept"), abs=1e-5), out


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_to_the_last_bit(
    method: str, learn: Learn, held: Path, train: Path, tmp_path: Path
) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", [{"text": text} for text in texts(9, 80)])
    more = {"data.replay": str(other), "data.replay_share": 0.3, "train.save_every": 2, "data.eval": str(held)}
    whole = learn(method, "whole", more)
    with pytest.raises(Killed):
        learn(method, "killed", more, at=kill_at(4))
    again = learn(method, "killed", more, resume=True)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert again["scores"] == whole["scores"]


def test_the_end_of_each_file_is_scored_where_nothing_is_named(learn: Learn, train: Path) -> None:
    facts = learn(more={"data.held_out": 0.25})
    assert facts["leaked"] == 0
    assert facts["scores"]["after"]["tokens"] > 0
    whole = learn(out="all", more={"data.held_out": 0})
    assert whole["scores"] == {"before": {}, "after": {}}
    tokens = [facts["train"]["supervised_tokens"], facts["scores"]["before"]["tokens"]]
    assert sum(tokens) == whole["train"]["supervised_tokens"]
    assert 0.15 < tokens[1] / sum(tokens) < 0.35


def test_what_is_replayed_is_learned_in_its_share(learn: Learn, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(texts(40, 100)), encoding="utf-8")
    facts = learn(more={"data.replay": str(other), "data.replay_share": 0.2, "train.steps": 40})
    assert facts["replay"]["share"] == pytest.approx(0.2, abs=0.01)
    assert facts["replay"]["path"] == str(other)
    assert facts["train"]["rows"] == learn(out="alone", more={"train.steps": 40})["train"]["rows"]
    assert losses(tmp_path / "run") != losses(tmp_path / "alone")
    recipe = load(str(tmp_path / "run" / "recipe.yaml"), {}).recipe
    assert set(recipe.inputs or {}) == {"train", "model", "replay"}
    other.write_text("Another text.\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"other\.txt has changed since the recipe was written: inputs\.replay"):
        command(load(str(tmp_path / "run" / "recipe.yaml"), {"out": str(tmp_path / "new")}), False, Listener())


def test_a_rate_is_tried_on_what_is_new(learn: Learn, tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", [{"text": text} for text in texts(60, 80)])
    auto = {"train.lr": "auto"}
    alone = learn(out="alone", more=auto)["lr"]
    beside = learn(more={**auto, "data.replay": str(other)})["lr"]
    assert [pair[0] for pair in beside["test"]["tried"]] == [pair[0] for pair in alone["test"]["tried"]]
    assert [pair[1] for pair in beside["test"]["tried"]] == pytest.approx([pair[1] for pair in alone["test"]["tried"]])


def test_a_budget_is_kept(learn: Learn, held: Path, tmp_path: Path) -> None:
    probe, guard = tmp_path / "probe.txt", tmp_path / "guard.txt"
    probe.write_text(" ".join(f"{good}, and then {bad}." for good in GOOD for bad in BAD), encoding="utf-8")
    guard.write_text(
        "\n".join(f"Once more: {bad}; they said, {good}!" for good in GOOD for bad in BAD), encoding="utf-8"
    )
    more = {"data.eval": str(held), "forget.probe": str(probe), "train.steps": 30, "train.lr": 1e-2}
    free = learn(out="free", more=more)["forgetting"]["after"]["kl"]
    kept = learn(more={**more, "forget.budget": free / 3, "forget.text": str(guard)})
    assert kept["guard"]["probe_kl"] == kept["forgetting"]["after"]["kl"] < free / 2
    assert kept["scores"]["after"]["loss"] < kept["scores"]["before"]["loss"]


def test_a_dry_run_foresees_it(learn: Learn, held: Path, tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", [{"text": text} for text in texts(9, 80)])
    more = {"data.eval": str(held), "data.replay": str(other), "data.replay_share": 0.2}
    for method in ("freeze", "mask", "prefix"):
        foreseen, facts = learn(method, more=more, run=dry_run), learn(method, method, more)
        for key in ("rows", "tokens", "supervised_tokens", "dropped"):
            assert foreseen[key] == facts["train"][key], key
        assert (foreseen["replay"], foreseen["steps"]) == (facts["replay"], facts["steps"])
        assert foreseen["trainable"] == facts["trainable"]


def test_every_form_of_a_corpus_is_the_same_text(learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"{line}\n" for line in texts(30))
    folder = tmp_path / "texts"
    folder.mkdir()
    packed = tmp_path / "b.txt.gz"
    packed.write_bytes(gzip.compress(text.encode(), mtime=0))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (folder / "c.txt").write_bytes(text.replace("\n", "\r\n").encode())
    rows = write_jsonl(tmp_path / "d.jsonl", [{"title": text[:40], "body": text[40:]}])
    more = {"data.held_out": 0}
    learn(out="txt", more={**more, "data.train": str(tmp_path / "a.txt")})
    expected = adapter_tensors(tmp_path / "txt")
    learn(out="gz", more={**more, "data.train": str(packed)})
    learn(out="folder", more={**more, "data.train": str(folder)})
    learn(out="rows", more={**more, "data.train": str(rows), "data.text": "{{ title }}{{ body }}"})
    for out, said in (("pipe", text), ("lines", json.dumps({"text": text}))):
        stdin = SimpleNamespace(buffer=io.BytesIO(said.encode()), isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", stdin)
        learn(out=out, more={**more, "data.train": "-"})
    for out in ("gz", "folder", "rows", "pipe", "lines"):
        assert same_tensors(adapter_tensors(tmp_path / out), expected), out


def test_several_files_with_weights(learn: Learn, train: Path, held: Path) -> None:
    facts = learn(more={"data.train": [{"path": str(train), "weight": 0.5}, str(held)], "train.steps": None})
    (one, other) = facts["train"]["files"]
    assert one["rows_per_epoch"] == round(one["rows"] / 2)
    assert other["rows_per_epoch"] == other["rows"]
    assert facts["steps"] == math.ceil((one["rows_per_epoch"] + other["rows_per_epoch"]) / 8)  # one pass


def test_what_an_adapter_of_text_remembers(learn: Learn, held: Path, tmp_path: Path) -> None:
    learn(more={"data.eval": str(held)})
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "good?", "label": "positive"}])
    asked = {"data.eval": str(rows), "data.prompt": "{{ text }}", "data.answer": "{{ label }}"}
    told = evaluate(None, asked, [], tmp_path / "run", False, lambda text: None)["scores"]
    assert "greedy_acc" in told
    against = evaluate(None, {"data.eval": str(held)}, [], tmp_path / "run", False, lambda text: None, None, "base")
    assert against["against"]["differences"]["loss"]["difference"] < 0
    with pytest.raises(RecipeError, match=r"score\.metric is exact, but a running text has no answer"):
        evaluate(
            None, {"data.eval": str(held), "score.metric": "exact"}, [], tmp_path / "run", False, lambda text: None
        )


def test_rows_can_be_looked_at(learn: Learn, train: Path) -> None:
    shown = learn(run=lambda resolved: {"shown": show(resolved, 1, 2, False)})["shown"]
    assert shown[0].where == f"{train} document 1"
    told = learn(run=stats)
    assert told["supervised_tokens"] > 0
    assert told["length"]["p100"] == LENGTH


@pytest.mark.parametrize(
    ("name", "data", "error", "said"),
    [
        ("a.txt", b"", DataError, r"a\.txt: there is no text"),
        ("a.txt", b"\n\n  \n", DataError, r"a\.txt: there is no text"),
        ("a.txt", b"\x00\x01\x02", DataError, "NUL byte"),
        ("a.txt", b"caf\xe9 ole\n", DataError, "not UTF-8"),
        ("a.txt", b"word " * 300_000, DataError, "a line, or blank lines, of more than"),
        ("a.txt", b"one line\n", DataError, "too short to hold the end of it out"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', DataError, r"a\.jsonl line 2: no field 'text'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', DataError, "line 2 column 10: broken JSON"),
        ("a.jsonl", b'{"text": "  "}\n', DataError, "there is no text"),
        ("a.txt.gz", b"no gzip", DataError, "cannot be unpacked"),
    ],
)
def test_unkind_text_is_named(
    name: str, data: bytes, error: type[CtxtuneError], said: str, learn: Learn, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(error, match=said):
        learn(more={"data.train": str(path)})
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"data.prompt": "{{ text }}:"}, "prompt has no place beside text"),
        ({"data.choices": ["a", "b"]}, "choices has no place beside text"),
        ({"data.messages": "messages"}, "messages has no place beside text"),
        ({"data.on_long": "drop"}, "on_long has no place beside text"),
        ({"data.text": None, "data.replay": "a.txt"}, "replay is learned beside running text"),
        ({"data.replay": "a.txt", "data.replay_share": 1.5}, "--replay: data.replay_share is 1.5"),
        ({"method.name": "fewshot", "method.layers": None}, "method fewshot learns nothing"),
        ({**METHODS["prefix"], "method.layers": None, "method.kind": "suffix"}, "kind suffix stands between"),
        ({**METHODS["prefix"], "method.layers": None, "method.init": "fewshot"}, "init fewshot is made of answers"),
        (
            {**METHODS["prefix"], "method.layers": None, "method.distill_from": "fewshot"},
            "distill_from fewshot teaches",
        ),
        (
            {**METHODS["prefix"], "method.layers": None, "method.tokens": 60},
            "behind 60 virtual ones: the model reads 64",
        ),
        ({"data.max_length": 65}, "data.max_length 65 is more than the model's 64 tokens"),
    ],
)
def test_what_does_not_go_with_text(more: dict[str, Any], said: str, learn: Learn) -> None:
    with pytest.raises(RecipeError, match=said):
        learn(more=more)


def test_an_encoder_does_not_go_on_with_a_text(learn: Learn) -> None:
    with pytest.raises(ModelError, match="it does not go on with a text"):
        learn(kind="bert-tied")


def test_layers_can_be_chosen(learn: Learn) -> None:
    facts = learn(more={"method.layers": "auto", "train.steps": 2})
    assert facts["choice"]["layers"].startswith("last:")


def test_a_rate_rises_once_more_and_one_pass_is_made() -> None:
    text = load(None, {"model": "m", "method.name": "freeze", "data.train": "a.txt", "data.text": "{{ text }}"}).recipe
    rows = load(None, {"model": "m", "method.name": "freeze", "data.train": "a.jsonl"}).recipe
    assert (text.train.epochs, text.train.schedule, text.train.batch) == (1.0, "cosine", 16)
    assert text.train.warmup > 0
    assert (rows.train.epochs, rows.train.schedule, rows.train.batch) == (3.0, "linear", 32)


def test_a_mask_beside_a_random_one_and_a_choice_alone(learn: Learn, held: Path, tmp_path: Path) -> None:
    facts = learn("contrast", more={"data.eval": str(held), "method.control": True})
    assert facts["control"]["differences"]["loss"]["other"] == pytest.approx(facts["control"]["scores"]["loss"])
    chosen = learn("contrast", "mask.safetensors", run=lambda resolved: vars(choose_only(resolved, lambda text: None)))
    assert chosen["numbers"] == facts["trainable"]


def test_shares_of_an_adapter(learn: Learn, held: Path, tmp_path: Path) -> None:
    facts = learn(more={"data.eval": str(held)})
    given = {"data.eval": str(held), "forget.probe": "none"}
    told = interpolate(None, given, [], tmp_path / "run", [0.0, 0.5, 1.0], False, lambda text: None)["alphas"]
    ends = [facts["scores"][when]["loss"] for when in ("before", "after")]
    assert [told[0]["scores"]["loss"], told[2]["scores"]["loss"]] == pytest.approx(ends, abs=1e-5)
    assert min(ends) < told[1]["scores"]["loss"] < max(ends)


def test_a_prompt_goes_on_from_an_earlier_one(learn: Learn, tmp_path: Path) -> None:
    learn("prefix", "first", {"train.steps": 20})
    more = {"method.init": "adapter", "method.adapters": [str(tmp_path / "first")], "method.tokens": "auto"}
    learn("prefix", "second", more)
    assert losses(tmp_path / "second")[0] < losses(tmp_path / "first")[0]
    learn("prefix", "words", {"method.init": "text:A list of reviews", "method.tokens": "auto"})
    assert load(str(tmp_path / "words" / "recipe.yaml"), {}).recipe.method.model_dump()["tokens"] > 4
