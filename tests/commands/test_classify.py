"""An encoder without a head learns to choose: the whole way from rows to a folder that transformers loads."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.adapter.attach import attach, attached
from ctxtune.adapter.read import open_adapter
from ctxtune.backend.load import load_base
from ctxtune.commands.adapt import adapt
from ctxtune.commands.adapter import merge, verify
from ctxtune.commands.data import show, stats
from ctxtune.commands.evaluate import evaluate
from ctxtune.commands.export import export
from ctxtune.commands.generate import asks_of_prompts, generate
from ctxtune.errors import AdapterError, ModelError, RecipeError

from ..conftest import (
    CHOICES,
    HEADLESS_KINDS,
    PROMPT,
    Listener,
    adapter_tensors,
    resolve_recipe,
    review_rows,
    same_tensors,
    write_jsonl,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.recipe.load import Resolved

MORE = {"train.lr": 1e-2, "train.steps": 20, "forget.probe": "builtin"}


@pytest.fixture(params=HEADLESS_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tuned(kind: str, resolve: Callable[..., Resolved], reviews: Path, dev: Path, tmp_path: Path) -> Path:
    adapt(resolve(kind, reviews, more=MORE | {"data.eval": str(dev)}), False, Listener())
    return tmp_path / "run"


def scored(*, adapter: Path | None = None, notes: list[str] | None = None, **flags: object) -> dict[str, Any]:
    given = {name.replace("__", "."): value for name, value in flags.items()}
    say = (notes if notes is not None else []).append
    return evaluate(None, {"device": "cpu", **given}, [], adapter, False, say, None, None)["scores"]  # type: ignore[no-any-return]


def test_a_run_learns_and_says_what_was_not_measured(
    kind: str, resolve: Callable[..., Resolved], reviews: Path, dev: Path
) -> None:
    listener = Listener()
    facts = adapt(resolve(kind, reviews, more=MORE | {"data.eval": str(dev)}), False, listener)
    before, after = facts["scores"]["before"], facts["scores"]["after"]
    assert before["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert before["acc"] == 0.5  # every other row is negative, the first choice
    assert (after["acc"], set(after)) == (1.0, {"rows", "acc", "acc_stderr", "loss", "loss_stderr"})
    assert facts["forgetting"]["before"] == facts["forgetting"]["after"] == {}
    assert "predicts nothing to compare" in facts["forgetting"]["not_measured"]
    assert any("all choices are equally likely and the first is taken" in note for note in listener.notes)
    assert any("forgetting is not measured" in note for note in listener.notes)


def test_scored_from_the_files(tuned: Path, dev: Path, kind: str, model_folders: dict[str, Path]) -> None:
    said = json.loads((tuned / "result.json").read_text())["scores"]
    after = scored(adapter=tuned)
    assert {key: after[key] for key in said["after"]} == pytest.approx(said["after"], abs=1e-5)
    task: dict[str, Any] = {"data__prompt": PROMPT, "data__answer": "{{ label }}", "data__choices": CHOICES}
    notes: list[str] = []
    before = scored(model=str(model_folders[kind]), data__eval=str(dev), notes=notes, **task)
    assert {key: before[key] for key in said["before"]} == pytest.approx(said["before"], abs=1e-5)
    assert any("the first is taken" in note for note in notes)
    with pytest.raises(AdapterError, match=r"tells apart negative, positive; data\.choices lists others"):
        scored(adapter=tuned, data__choices=CHOICES[::-1])
    found = verify(tuned, str(model_folders[kind]))
    assert found.ok, found.checks


def test_merged_it_is_a_plain_model_of_transformers(
    tuned: Path, dev: Path, kind: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    merged = merge(tuned, tmp_path / "merged").merged
    assert merged.kl is not None
    assert merged.kl <= 1e-7
    plain, info = AutoModelForSequenceClassification.from_pretrained(merged.folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert plain.config.id2label == dict(enumerate(CHOICES))
    ours = load_base(model_folders[kind], "cpu", classes=CHOICES)
    attach(ours.model, open_adapter(tuned))
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert (plain.eval()(input_ids=ids).logits - ours.model(input_ids=ids).logits).abs().max() < 1e-5
    ask = pipeline("text-classification", model=plain, tokenizer=AutoTokenizer.from_pretrained(merged.folder))
    rows = [json.loads(line) for line in dev.read_text().splitlines()]
    texts = [f"Review: {row['text']}\nSentiment:" for row in rows]
    assert [one["label"] for one in ask(texts)] == [row["label"] for row in rows]
    task: dict[str, Any] = {"data__prompt": PROMPT, "data__answer": "{{ label }}", "data__choices": CHOICES}
    assert scored(model=str(merged.folder), data__eval=str(dev), **task) == pytest.approx(
        scored(adapter=tuned), abs=1e-5
    )


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("form", ["peft", "lora"])
def test_a_mask_beside_a_new_classifier_is_exported(
    form: str, kind: str, model_folders: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    """The classifier is whole in PEFT, where the base draws one of its own."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    more = {"method.name": "mask", "method.density": 0.1, "train.lr": 1e-2, "train.steps": 3, "forget.probe": "none"}
    adapt(resolve_recipe(model_folders[kind], reviews, tmp_path / "run", more), False, Listener())
    export(tmp_path / "run", form, tmp_path / form)
    ours = load_base(model_folders[kind], "cpu", classes=CHOICES).model
    ids = torch.arange(5, 25)[None]
    with torch.no_grad(), attached(ours, open_adapter(tmp_path / "run")):
        said = ours(input_ids=ids).logits
        assert said.abs().max() > 1e-3
        plain = AutoModelForSequenceClassification.from_pretrained(model_folders[kind], num_labels=len(CHOICES))
        theirs = PeftModel.from_pretrained(plain, tmp_path / form).eval()
        assert (theirs(input_ids=ids).logits - said).abs().max() <= 1e-5
    with torch.no_grad(), attached(ours, open_adapter(tmp_path / form)):
        assert (ours(input_ids=ids).logits - said).abs().max() <= 1e-5


def test_a_mask_by_lot_where_no_text_is_predicted(
    kind: str, model_folders: dict[str, Path], reviews: Path, dev: Path, tmp_path: Path
) -> None:
    """What is `auto` is random for an encoder without its head, and nothing to compare with; contrast itself is refused."""
    folder, ends = model_folders[kind], {}
    more = {"method.name": "mask", "method.density": 0.1, "train.lr": 1e-2, "train.steps": 2, "forget.probe": "none"}
    for select in ("auto", "random"):
        out = tmp_path / select
        adapt(resolve_recipe(folder, reviews, out, more | {"method.select": select}), False, Listener())
        ends[select] = adapter_tensors(out)
    assert same_tensors(*ends.values())
    for asked, said in (
        ({"method.select": "contrast"}, "says nothing of a text"),
        ({"method.control": True, "data.eval": str(dev)}, "select auto is random"),
    ):
        with pytest.raises(RecipeError, match=said) as caught:
            adapt(resolve_recipe(folder, reviews, tmp_path / "none", more | asked), False, Listener())
        assert caught.value.hint


def test_a_merged_model_learns_on_from_what_it_knows(tuned: Path, reviews: Path, dev: Path, tmp_path: Path) -> None:
    merged = merge(tuned, tmp_path / "merged").merged
    listener = Listener()
    more = MORE | {"data.eval": str(dev), "method.layers": "head", "train.steps": 2}
    facts = adapt(resolve_recipe(merged.folder, reviews, tmp_path / "on", more), False, listener)
    assert facts["scores"]["before"]["acc"] == 1.0
    assert not any("the first is taken" in note for note in listener.notes)
    again = merge(tmp_path / "on", tmp_path / "merged again").merged
    assert (again.folder / "config.json").read_text() == (merged.folder / "config.json").read_text()


def test_layers_auto(kind: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", review_rows(40))
    more = {"method.layers": "auto", "train.lr": "auto", "train.steps": 6, "data.on_long": "truncate"}
    listener = Listener()
    facts = adapt(resolve_recipe(model_folders[kind], train, tmp_path / "run", more), False, listener)
    assert facts["method"]["layers"] in ("last:1", "last:2", "last:4")
    assert {row["gradient"] for row in facts["choice"]["candidates"]} == {None}
    assert any("gradient none yet" in note for note in listener.notes)


def test_rows_are_shown_and_counted(kind: str, resolve: Callable[..., Resolved], reviews: Path) -> None:
    resolved = resolve(kind, reviews)
    (one,) = show(resolved, 2, 1, False)
    text, choice = one.pieces
    assert (choice.text, choice.supervised, text.supervised) == (f" {review_rows(2)[1]['label']}", True, False)
    assert (one.tokens, one.supervised) == (text.tokens, 1)
    facts = stats(resolved)
    assert facts["labels"] == {"negative": 11, "positive": 11}
    assert facts["supervised_tokens"] == facts["rows"] == 22


def test_long_rows_lose_their_beginning(kind: str, resolve: Callable[..., Resolved], reviews: Path) -> None:
    facts = adapt(resolve(kind, reviews, more={"data.max_length": 12, "data.on_long": "truncate"}), False, Listener())
    assert facts["train"]["truncated"] > 0
    assert facts["train"]["rows"] == 22


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "free answers": ({"data.choices": None}, ModelError, "it can only learn to choose"),
    "choices of its own in every row": ({"data.choices": "{{ options }}"}, ModelError, "it can only learn to choose"),
    "a probe of one's own": ({"forget.probe": "probe.txt"}, RecipeError, "probe.txt: forgetting is not measured"),
}


@pytest.mark.parametrize(("more", "error", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(
    more: dict[str, Any], error: type[Exception], said: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", [{**row, "options": CHOICES} for row in review_rows(8)])
    if "forget.probe" in more:
        (tmp_path / "probe.txt").write_text("some words of my own")
        more = {"forget.probe": str(tmp_path / "probe.txt")}
    with pytest.raises(error, match=said):
        adapt(resolve_recipe(model_folders["bert-headless"], train, tmp_path / "run", more), False, Listener())


def test_it_writes_no_text(tuned: Path, kind: str, model_folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="tells choices apart, it does not continue a text"):
        list(generate(asks_of_prompts(["It was"]), {"device": "cpu"}, tuned, False, 1, lambda text: None))
    flags = {"model": str(model_folders[kind]), "device": "cpu"}
    with pytest.raises(ModelError, match="without the head"):
        list(generate(asks_of_prompts(["It was"]), flags, None, False, 1, lambda text: None))
