"""Prompt tuning from the recipe to the adapter, with few-shot prompting, plain transformers and PEFT beside it."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.verify import verify
from ctxtune.commands.dry_run import dry_run
from ctxtune.commands.evaluate import evaluate
from ctxtune.errors import CtxtuneError, DataError, RecipeError
from ctxtune.recipe.load import load

from ..conftest import (
    CHOICES,
    PROMPT,
    Listener,
    adapter_tensors,
    review_rows,
    same_tensors,
    write_jsonl,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base
    from ctxtune.recipe.load import Resolved

FRONT = ["prefix", "input", "residual", "ptuning"]
WINDOWS = ["llama-tied", "qwen3-sliding-tied", "gemma3_text-tied", "mistral-untied", "phi3-untied"]


CONTAINERS = {
    "prefix": "PREFIX_TUNING",
    "input": "PROMPT_TUNING",
    "residual": "PROMPT_TUNING",
    "ptuning": "P_TUNING",
    "suffix": "SUFFIX",
}


def short(count: int, offset: int = 0) -> list[dict[str, str]]:
    """The tiny models read 64 tokens, a demonstration and a question together."""
    return [{**row, "text": f"{row['text'][:7]} {offset + at}"} for at, row in enumerate(review_rows(count, offset))]


def asked(model: Path, train: Path, out: Path, more: dict[str, Any] | None = None) -> Resolved:
    flags: dict[str, Any] = {
        "model": str(model), "data.train": str(train), "data.prompt": PROMPT, "data.answer": "{{ label }}",
        "data.choices": CHOICES, "method.name": "prompt", "method.shots": 1, "train.batch": 8, "train.steps": 3,
        "train.lr": 1e-2, "device": "cpu", "forget.probe": "none", "out": str(out),
    }  # fmt: skip
    return load(None, flags | (more or {}))


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "train.jsonl", short(24))


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "dev.jsonl", short(10, 24))


@pytest.mark.parametrize("kind", ["prefix", "input", "suffix"])
@pytest.mark.parametrize("model", WINDOWS)
def test_a_run_and_its_adapter(
    model: str, kind: str, model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    """Learned, written, verified, and scored again from the file alone: the same scores."""
    from ctxtune.commands.adapt import adapt

    more = {"method.kind": kind, "data.eval": str(dev)}
    facts = adapt(asked(model_folders[model], train, tmp_path / "run", more), False, Listener())
    assert facts["scores"]["after"]["loss"] != facts["start"]["scores"]["loss"]
    adapter = open_adapter(tmp_path / "run")
    assert all(check.ok for check in verify(adapter))
    assert adapter.container == CONTAINERS[kind]
    again = evaluate(None, {"data.eval": str(dev)}, [], tmp_path / "run", False, lambda _: None)
    for name in ("acc", "loss"):
        assert again["scores"][name] == pytest.approx(facts["scores"]["after"][name], abs=2e-5)


def test_what_is_foreseen_in_words(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    from rich.console import Console

    from ctxtune.cli.freeze import _cost_table

    facts = dry_run(asked(model_folders["gpt2-tied"], train, tmp_path / "run", {"train.lr": "auto"}))
    console = Console(width=200)
    with console.capture() as said:
        console.print(_cost_table(facts))
    lines = [" ".join(line.split()) for line in said.get().splitlines()]
    assert f"numbers of the model, none of which moves {facts['parameters']:,}" in lines
    assert f"trial steps of lr: auto, at most {facts['trial_steps']:,}" in lines


@pytest.mark.parametrize("kind", ["prefix", "suffix"])
def test_the_dry_run_knows_the_sizes(kind: str, model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    """Of demonstrations, and of what prompts end with; law 5 has what is told in words."""
    from ctxtune.commands.adapt import adapt

    resolved = asked(model_folders["gpt2-tied"], train, tmp_path / "run", {"method.kind": kind})
    foreseen, facts = dry_run(resolved), adapt(resolved, False, Listener())
    assert foreseen["trainable"] == facts["trainable"]
    assert foreseen["method"] == facts["method"]
    held = adapter_tensors(tmp_path / "run")["prompt_embeddings"].numel()
    assert foreseen["adapter_tensor_bytes"] == 4 * held
    assert facts["trainable"] == held
    assert foreseen["supervised_tokens"] == facts["train"]["supervised_tokens"]


def test_it_begins_as_the_demonstrations(
    model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    """Before the first step the scores are those of few-shot prompting with the same demonstrations."""
    from ctxtune.commands.adapt import adapt
    from ctxtune.commands.fewshot import fewshot

    model = model_folders["llama-tied"]
    for kind in FRONT:
        more = {"method.kind": kind, "data.eval": str(dev)}
        facts = adapt(asked(model, train, tmp_path / kind, more), False, Listener())
        shown = load(None, {
            "model": str(model), "data.train": str(train), "data.eval": str(dev), "data.prompt": PROMPT,
            "data.answer": "{{ label }}", "data.choices": CHOICES, "method.name": "fewshot", "method.shots": 1,
            "device": "cpu",
        })  # fmt: skip
        told = fewshot(shown, lambda _: None)
        assert facts["start"]["scores"]["acc"] == told["scores"]["acc"]
        assert facts["start"]["scores"]["loss"] == pytest.approx(told["scores"]["loss"], abs=2e-4)
        assert facts["scores"]["before"]["loss"] != pytest.approx(told["scores"]["loss"], abs=2e-4)


def test_words_and_how_many(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    """Fewer virtual tokens than words take the first, more take them again; as many as there are begin as the words."""
    from ctxtune.commands.adapt import adapt

    model, words = model_folders["llama-tied"], {"method.init": "text: is it fine or dull", "train.lr": 1e-9}
    rows = {}
    for count in ("auto", 2, 20):
        more = words | {"method.kind": "input", "method.tokens": count}
        adapt(asked(model, train, tmp_path / f"run{count}", more), False, Listener())
        rows[count] = adapter_tensors(tmp_path / f"run{count}")["prompt_embeddings"]
    many = len(rows["auto"])
    assert 2 < many < 20
    for count, found in rows.items():
        wanted = rows["auto"][torch.arange(many if count == "auto" else count) % many]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    manifest = open_adapter(tmp_path / "run2").manifest
    assert manifest is not None
    assert manifest.shown is not None
    assert manifest.shown.tokens == [-1, -2]
    assert manifest.settings["tokens"] == 2
    text = (tmp_path / "runauto" / "recipe.yaml").read_text()
    assert f"tokens: {many}  # auto" in text


def test_vectors_keep_their_norms(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    from ctxtune.commands.adapt import adapt

    norms = []
    for rate in (1e-9, 10.0):
        more = {"method.kind": "input", "train.lr": rate}
        adapt(asked(model_folders["llama-tied"], train, tmp_path / f"run{rate}", more), False, Listener())
        norms.append(adapter_tensors(tmp_path / f"run{rate}")["prompt_embeddings"].norm(dim=1))
    torch.testing.assert_close(*norms)


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("kind", FRONT)
def test_plain_peft_gives_the_scores_of_the_run(
    kind: str, model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    """Rows as a user of PEFT reads them, behind what the run wrote: the scores are those that it measured."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ctxtune.commands.adapt import adapt
    from ctxtune.data.prompt import encode_prompt

    model, more = model_folders["llama-tied"], {"method.kind": kind, "data.eval": str(dev)}
    facts = adapt(asked(model, train, tmp_path / "run", more), False, Listener())
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = AutoModelForCausalLM.from_pretrained(model)
    tuned = PeftModel.from_pretrained(plain, tmp_path / "run" / "adapter").eval()
    losses = []
    for line in dev.read_text().splitlines():
        row = json.loads(line)
        prompt = PROMPT.replace("{{ text }}", row["text"])
        read = encode_prompt(tokenizer, prompt, framed=False)
        whole = encode_prompt(tokenizer, f"{prompt} {row['label']}", framed=False)
        with torch.no_grad():
            logits = tuned(input_ids=torch.tensor([whole]), attention_mask=torch.ones(1, len(whole))).logits[0]
        logits = logits[-len(whole) :]  # vectors before the input have logits of their own
        said = torch.log_softmax(logits[len(read) - 1 : -1], -1)
        losses.append(-float(said.gather(1, torch.tensor(whole[len(read) :])[:, None]).sum()))
    assert sum(losses) / len(losses) == pytest.approx(facts["scores"]["after"]["loss"], abs=2e-4)


def test_what_it_refuses(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    from ctxtune.commands.adapt import adapt

    with pytest.raises(CtxtuneError, match="99 demonstrations"):
        adapt(asked(model_folders["llama-tied"], train, tmp_path / "shots", {"method.shots": 99}), False, Listener())
    for init in ("text:", "text:  ", "words", ""):
        with pytest.raises(RecipeError, match=r"method\.init"):
            asked(model_folders["llama-tied"], train, tmp_path / "init", {"method.init": init})


def test_forgetting_is_measured_behind_the_prompt(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    from ctxtune.commands.adapt import adapt

    more = {"forget.probe": "builtin", "train.steps": 1}
    facts = adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", more), False, Listener())
    assert facts["forgetting"]["before"]["kl"] == 0.0
    assert facts["forgetting"]["after"]["kl"] > 0.0


def test_generate_goes_on_behind_it(
    model_folders: dict[str, Path], train: Path, tmp_path: Path, open_base: Callable[[str], Base]
) -> None:
    """Greedy: the token that the learned prefix makes likeliest, again and again, by the model's own forward."""
    from ctxtune.adapter.keys import held_prefix
    from ctxtune.backend.decode import generate_batch
    from ctxtune.backend.prefix import going_on
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.adapt import adapt
    from ctxtune.commands.behind import open_context
    from ctxtune.recipe.written import Generation

    for kind in FRONT:  # of a suffix: test_suffix.py
        adapt(asked(model_folders["llama-tied"], train, tmp_path / kind, {"method.kind": kind}), False, Listener())
        base = open_base("llama-tied")
        adapter = open_adapter(tmp_path / kind)
        context = open_context(base, adapter)
        assert context is not None
        ids = context.asked("Review: a fine film\nSentiment:")
        (written,) = context.write([ids], Generation(max_tokens=4))
        trunk = Trunk(base)
        prefix, read = held_prefix(trunk, adapter), ids[len(context.prefix.tokens) :]
        for token in written.tokens:
            tensor = torch.tensor([read])
            with torch.no_grad():
                said = base.model(input_ids=tensor, **going_on(trunk, prefix, torch.ones_like(tensor))).logits[0, -1]
            assert int(said.argmax()) == token
            read = [*read, token]
        assert [one.tokens for one in generate_batch(base, [read[:3]], Generation(max_tokens=1))]


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("kind", FRONT)
def test_the_card_tells_how_peft_is_asked(
    kind: str, model_folders: dict[str, Path], train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python runs as it stands; what it shows is what the tokens started from."""
    from ctxtune.cli.adapter import show
    from ctxtune.commands.adapt import adapt

    adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", {"method.kind": kind}), False, Listener())
    monkeypatch.chdir(tmp_path / "run" / "adapter")
    card = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert "virtual tokens were learned" in card
    assert "Review: " in card
    code = card.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("BASE", str(model_folders["llama-tied"])).replace("QUESTION", "Review: fine"), names)
    assert names["logits"].shape[1] == names["ids"].shape[1]
    show(tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method.tokens": 4}, r"the first 4 of (\d+) tokens of the texts below"),
        ({}, r"the (\d+) tokens of the texts below"),
        (
            {"method.tokens": 40, "data.instruction": "Say it.", "method.init": "labels"},
            r"the (\d+) tokens of .* below, again",
        ),
        ({"method.init": "vocab"}, r"common words, drawn by lot"),
        ({"method.init": "zero", "data.instruction": "Say it."}, r"zeros"),
        ({"method.kind": "suffix", "method.tokens": 40}, r"the (\d+) tokens of the texts below, again and again"),
        (
            {"method.kind": "suffix", "data.prompt": "{{ text }}", "data.instruction": "Say."},
            r"common words, drawn by lot",
        ),
    ],
)
def test_what_the_tokens_started_as(
    more: dict[str, Any], said: str, model_folders: dict[str, Path], train: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """How many of how many tokens of the texts that are shown; nothing is shown where there are none."""
    from ctxtune.cli.adapter import show
    from ctxtune.commands.adapt import adapt

    model = model_folders["llama-tied"]
    adapt(asked(model, train, tmp_path / "run", {"method.kind": "input", **more}), False, Listener())
    card = (tmp_path / "run" / "adapter" / "README.md").read_text().partition("## Virtual tokens")[2].partition("##")[0]
    show(tmp_path / "run")
    shown, manifest = capsys.readouterr().out, open_adapter(tmp_path / "run").manifest
    assert manifest is not None
    assert manifest.shown is not None
    for text in (card, shown):
        found = re.search(said, text)
        assert found is not None
        assert [int(number) for number in found.groups()] == [manifest.shown.begun][: len(found.groups())]
    assert ("```" in card) is bool(manifest.shown.texts) is ("\n1. " in shown) is ("below" in said)
    if "data.instruction" in more and manifest.shown.texts:
        assert manifest.shown.texts[0] == "Say it."


def test_an_older_adapter_that_counted_none(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    from ctxtune.adapter.manifest import Manifest
    from ctxtune.commands.adapt import adapt

    adapt(asked(model_folders["llama-tied"], train, tmp_path / "run"), False, Listener())
    manifest = open_adapter(tmp_path / "run").manifest
    assert manifest is not None
    fields = manifest.as_dict()
    del fields["shown"]["begun"]
    assert Manifest.from_json(fields).start == "the texts below"


@pytest.mark.parametrize("kind", FRONT[:3])
@pytest.mark.parametrize("init", ["labels", "vocab", "zero"])
def test_other_starts(
    init: str, kind: str, model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    from ctxtune.commands.adapt import adapt

    more = {"method.kind": kind, "method.init": init, "data.eval": str(dev), "train.steps": 1}
    facts = adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", more), False, Listener())
    assert facts["scores"]["after"]["loss"] != facts["start"]["scores"]["loss"]
    assert (facts["method"]["tokens"] == 20) is (init != "labels")
    assert all(check.ok for check in verify(open_adapter(tmp_path / "run")))
    again = evaluate(None, {"data.eval": str(dev)}, [], tmp_path / "run", False, lambda _: None)
    assert again["scores"]["loss"] == pytest.approx(facts["scores"]["after"]["loss"], abs=2e-5)


def test_labels_ask_for_choices(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    from ctxtune.commands.adapt import adapt

    more = {"method.init": "labels", "data.choices": None}
    flags = {key: value for key, value in more.items() if value is not None}
    resolved = asked(model_folders["llama-tied"], train, tmp_path / "run", flags)
    free = resolved.recipe.model_copy(update={"data": resolved.recipe.data.model_copy(update={"choices": None})})
    with pytest.raises(RecipeError, match="no choices in common"):
        adapt(dataclasses.replace(resolved, recipe=free), False, Listener())


@pytest.mark.parametrize("model", WINDOWS)
def test_windows_that_end_before_the_virtual_tokens(
    model: str, model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    """It is said; where all the layers that learn have one, nothing is learned."""
    from ctxtune.commands.adapt import adapt

    listener, more = Listener(), {"method.top": 2, "data.eval": str(dev)}
    facts = adapt(asked(model_folders[model], train, tmp_path / "run", more), False, listener)
    assert any("do not see the virtual tokens" in note for note in listener.notes) is (model != WINDOWS[0])
    seen = model in ("llama-tied", "gemma3_text-tied")
    assert (facts["scores"]["after"]["loss"] != facts["start"]["scores"]["loss"]) is seen
    again = evaluate(None, {"data.eval": str(dev)}, [], tmp_path / "run", False, lambda _: None)
    assert again["scores"]["loss"] == pytest.approx(facts["scores"]["after"]["loss"], abs=2e-5)


def test_more_layers_than_there_are(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="top 9: the model has 4 layers"):
        dry_run(asked(model_folders["llama-tied"], train, tmp_path / "run", {"method.top": 9}))
    with pytest.raises(RecipeError, match="ptuning adds to what it starts from"):
        asked(model_folders["llama-tied"], train, tmp_path / "run", {"method.kind": "ptuning", "method.init": "zero"})
    with pytest.raises(RecipeError, match="kind input has vectors instead"):
        asked(model_folders["llama-tied"], train, tmp_path / "run", {"method.top": 1, "method.kind": "input"})


def test_an_instruction_is_read_once(model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path) -> None:
    """Eval reads behind the adapter what the run has read: the instruction is in the virtual tokens, or behind them."""
    from ctxtune.commands.adapt import adapt

    for init in ("text:words", "zero"):
        more = {
            "data.instruction": "Say it. ", "method.init": init, "method.tokens": 4, "data.eval": str(dev),
            "train.eval_every": 3,
        }  # fmt: skip
        facts = adapt(asked(model_folders["llama-tied"], train, tmp_path / init[:4], more), False, Listener())
        again = evaluate(None, {"data.eval": str(dev)}, [], tmp_path / init[:4], False, lambda _: None)
        assert again["scores"]["loss"] == pytest.approx(facts["scores"]["after"]["loss"], abs=2e-5)


def test_demonstrations_are_not_learned_from(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    from ctxtune.commands.adapt import adapt

    listener = Listener()
    facts = adapt(asked(model_folders["llama-tied"], train, tmp_path / "run"), False, listener)
    assert facts["train"]["rows"] == 23
    assert "1 row shown as demonstrations, and not learned from" in listener.notes
    few = write_jsonl(tmp_path / "few.jsonl", short(4))
    for shots in (4, 100):
        with pytest.raises(DataError, match="the training rows are 3 beside one to learn from") as caught:
            adapt(asked(model_folders["llama-tied"], few, tmp_path / "few", {"method.shots": shots}), False, Listener())
        assert caught.value.hint == "name more rows with --train, or --shots 3"
    dry_run(asked(model_folders["llama-tied"], few, tmp_path / "few", {"method.shots": 3, "method.init": "fewshot"}))
    one = write_jsonl(tmp_path / "one.jsonl", short(1))
    with pytest.raises(DataError) as caught:
        adapt(asked(model_folders["llama-tied"], one, tmp_path / "few"), False, Listener())
    assert caught.value.hint == "name more rows with --train"


def test_a_huge_demonstration_is_to_blame_not_the_rows_behind_it(
    model_folders: dict[str, Path], tmp_path: Path, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.commands import begin
    from ctxtune.commands.adapt import adapt

    rows = [{**row, "text": "long " * 30 if at == 2 else row["text"]} for at, row in enumerate(short(8))]
    train = write_jsonl(tmp_path / "train.jsonl", rows)
    monkeypatch.setattr(begin, "choose", lambda *_: [2])
    resolved = asked(model_folders["llama-tied"], train, tmp_path / "run", {"data.eval": str(dev)})
    for run, row in ((lambda: dry_run(resolved), train), (lambda: adapt(resolved, False, Listener()), dev)):
        with pytest.raises(DataError, match=f"which leaves no room: {row} line 1: ") as caught:
            run()
        assert str(caught.value).startswith(f"{train} line 3: as a demonstration it takes ")
        assert str(caught.value.hint).startswith("shorten it")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"method.init": "text:Good or bad?", "method.shots": 4}, True),
        ({"method.init": "vocab", "method.shots": 8}, True),
        ({"method.init": "labels", "method.shots": 3}, True),
        ({"method.kind": "suffix", "method.shots": 3}, True),
        ({"method.init": "labels", "method.shots": None}, False),
        ({"method.init": "fewshot", "method.shots": 1}, False),
        ({"method.init": "vocab", "method.distill_from": "fewshot", "method.shots": 1}, False),
    ],
)
def test_shots_that_are_not_used_are_told(
    more: dict[str, Any], told: bool, model_folders: dict[str, Path], train: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    dry_run(asked(model_folders["llama-tied"], train, tmp_path / "run", more), notes.append)
    found = [note for note in notes if "is not used" in note]
    assert [note.partition(" is not")[0] for note in found] == [f"method.shots {more['method.shots']}"] * told


def test_base_and_result_are_scored_on_the_same_rows(
    model_folders: dict[str, Path], train: Path, tmp_path: Path
) -> None:
    """A row that fits alone and not behind the virtual tokens is no row of either."""
    from ctxtune.commands.adapt import adapt

    dev = write_jsonl(tmp_path / "dev.jsonl", [*short(4, 24), {"text": "x " * 15, "label": CHOICES[0]}])
    more = {"data.eval": str(dev), "data.on_long": "drop", "method.init": "vocab", "method.tokens": 30}
    facts = adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", more), False, Listener())
    assert [part["rows"] for part in (facts["scores"]["before"], facts["scores"]["after"])] == [4, 4]
    with pytest.raises(DataError, match="30 of them virtual"):
        adapt(
            asked(model_folders["llama-tied"], train, tmp_path / "error", more | {"data.on_long": "error"}),
            False,
            Listener(),
        )


def test_a_start_that_nothing_betters_is_kept(
    model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every evaluation behind a step is told to be worse than the one before the first."""
    from ctxtune.commands.adapt import adapt
    from ctxtune.commands.judge import Judge

    calls: list[float] = []
    true = Judge.choose

    def worse(judge: Judge, when: str = "") -> dict[str, float]:
        said = true(judge, when)
        calls.append(said["loss"])
        judge.told[-1] = {**said, "loss": said["loss"] + 100 * (len(calls) > 1)}
        return judge.told[-1]

    monkeypatch.setattr(Judge, "choose", worse)
    more = {"data.eval": str(dev), "train.eval_every": 1}
    facts = adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", more), False, Listener())
    assert facts["best_step"] == 0
    assert facts["scores"]["after"] == facts["start"]["scores"]  # known: it is not scored again
    assert len(calls) == 1 + facts["steps"]
    assert calls[1] != pytest.approx(calls[0], abs=1e-6)
    adapt(asked(model_folders["llama-tied"], train, tmp_path / "still", {**more, "train.lr": 1e-30}), False, Listener())
    assert same_tensors(adapter_tensors(tmp_path / "run"), adapter_tensors(tmp_path / "still"))


@pytest.mark.parametrize("kind", ["prefix", "residual", "suffix"])
def test_a_base_in_sixteen_bits(
    kind: str, model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    """The virtual tokens are learned, and kept, in 32."""
    from ctxtune.commands.adapt import adapt

    more = {"method.kind": kind, "dtype": "bfloat16", "data.eval": str(dev)}
    facts = adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", more), False, Listener())
    assert facts["dtype"] == "bfloat16"
    assert facts["scores"]["after"]["loss"] != facts["start"]["scores"]["loss"]
    assert adapter_tensors(tmp_path / "run")["prompt_embeddings"].dtype is torch.float32
    assert (
        dry_run(asked(model_folders["llama-tied"], train, tmp_path / "dry", more))["weight_bytes"]
        == facts["weight_bytes"]
    )


def test_generate_by_unkind_settings(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    """A penalty on tokens that stand in the text, and an empty prompt: virtual tokens are none and are no text."""
    from ctxtune.commands.adapt import adapt
    from ctxtune.commands.generate import asks_of_prompts, generate

    adapt(asked(model_folders["llama-tied"], train, tmp_path / "run"), False, Listener())
    flags = {"generate.max_tokens": 3, "generate.repetition_penalty": 1.3}
    told = list(generate(asks_of_prompts(["Review: fine"]), flags, tmp_path / "run", False, 4, lambda _: None))
    assert told
    with pytest.raises(DataError, match="is empty"):
        list(generate(asks_of_prompts([""]), flags, tmp_path / "run", False, 4, lambda _: None))


def test_the_probe_leaves_room(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    """GPT-2 knows so many positions and no more."""
    from ctxtune.commands.adapt import adapt

    more = {"forget.probe": "builtin", "train.steps": 1, "method.init": "vocab", "method.tokens": 30}
    facts = adapt(asked(model_folders["gpt2-tied"], train, tmp_path / "run", more), False, Listener())
    assert facts["forgetting"]["before"]["tokens"] == facts["forgetting"]["after"]["tokens"]


def test_a_row_of_zeros_stays_one(model_folders: dict[str, Path]) -> None:
    from ctxtune.backend.load import load_base
    from ctxtune.backend.trunk import Trunk
    from ctxtune.methods.prompt import open_method
    from ctxtune.recipe.schema import Prompt

    base = load_base(model_folders["llama-tied"], "cpu")
    with torch.no_grad():
        base.model.get_input_embeddings().weight[7] = 0
    method = open_method(Prompt(name="prompt", kind="input", tokens=2), base.model, base.anatomy)
    method.begin(Trunk(base), [7, 8])
    assert method.vectors().isfinite().all()
    assert method.vectors()[0].abs().max() == 0
