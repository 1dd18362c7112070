"""A whole run: what it reads, what it leaves, how it goes on, and every way in which it refuses."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import shutil
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.verify import verify
from ctxtune.backend import feed as feed_file
from ctxtune.backend.fingerprint import fingerprint
from ctxtune.commands import adapt as command
from ctxtune.commands.evaluate import evaluate
from ctxtune.commands.resume import resume_recipe
from ctxtune.errors import CtxtuneError, DataError, Interrupted, ModelError, RecipeError, StorageError
from ctxtune.recipe.load import load

from ..conftest import (
    CHOICES,
    Killed,
    Listener,
    adapter_tensors,
    kill_at,
    losses,
    review_rows,
    same_tensors,
    write_jsonl,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ctxtune.backend.load import Base
    from ctxtune.recipe.load import Resolved

    Adapt = Callable[..., dict[str, Any]]
    Resolve = Callable[..., Resolved]


def strict_json(text: str) -> Any:
    """JSON as other programs read it: without NaN and Infinity."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def read_result(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = strict_json((run / "result.json").read_text(encoding="utf-8"))
    return facts


def read_metrics(run: Path) -> list[dict[str, Any]]:
    return [strict_json(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


# --- what it reads


def write_table(path: Path, dialect: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["label", "text"], dialect=dialect)
        writer.writeheader()
        writer.writerows(review_rows(22))
    return path


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))


def test_every_format_gives_the_same_adapter(
    adapt: Adapt, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapt(out="jsonl")
    expected = adapter_tensors(tmp_path / "jsonl")
    adapt(out="csv", train=write_table(tmp_path / "rows.csv", "excel"))
    adapt(out="tsv", train=write_table(tmp_path / "rows.tsv", "excel-tab"))
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + reviews.read_bytes().replace(b"\n", b"\r\n"))
    adapt(out="bom", train=tmp_path / "bom.jsonl")
    pipe(monkeypatch, reviews.read_bytes())
    adapt(out="pipe", train="-")
    for out in ("csv", "tsv", "bom", "pipe"):
        assert same_tensors(adapter_tensors(tmp_path / out), expected), out
    assert (tmp_path / "pipe" / "stdin.jsonl").read_bytes() == reviews.read_bytes()


def test_a_text_is_a_row_a_line(adapt: Adapt, tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("\n\n".join(row["text"] for row in review_rows(9)) + "\n", encoding="utf-8")
    more = {"data.prompt": "", "data.answer": "{{ text }}", "data.choices": None, "train.lr": 1e-2, "train.steps": 8}
    facts = adapt("gpt2-tied", more={**more, "data.eval": str(path)}, train=path)
    assert facts["train"]["rows"] == facts["leaked"] == facts["scores"]["after"]["rows"] == 9
    found = losses(tmp_path / "run")
    assert sum(found[-3:]) < sum(found[:3])


def test_an_empty_pipe(adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reviews: Path) -> None:
    pipe(monkeypatch, b"")
    with pytest.raises(DataError, match="standard input is empty"):
        adapt(train="-")
    pipe(monkeypatch, reviews.read_bytes())
    adapt(train="-")


def test_a_wrong_row_in_a_pipe_is_named(adapt: Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b'{"text": "a", "label": "positive"}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"^standard input line 2: no field 'label'"):
        adapt(train="-")


@pytest.mark.parametrize(
    ("data", "told", "hint"),
    [
        (b'{"text": "a", "label": "positive"}\n{"text": ', "standard input line 2 column 10: broken JSON", ""),
        (gzip.compress(b"{}", mtime=0), "standard input is gzip", "gzip -dc FILE |"),
        (b"PAR1\x15", "standard input is parquet", "name the file"),
        (b"\n", "standard input has no rows", ""),
        (b'{"text": "a"}', "standard input line 1: no field 'label'", ""),
    ],
)  # fmt: skip
def test_a_broken_pipe_leaves_nothing(
    data: bytes, told: str, hint: str, adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, data)
    with pytest.raises(DataError, match=f"^{told}") as caught:
        adapt(train="-")
    assert hint in str(caught.value.hint)
    assert not (tmp_path / "run").exists()


def test_a_pipe_is_read_once(adapt: Adapt, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run goes on from the rows it has put aside, whether its recipe is named again or not."""
    adapt(out="straight", more={"train.save_every": 1})
    ways: list[tuple[str, Callable[[], object]]] = [
        ("named", lambda: adapt(out="named", train="-", more={"train.save_every": 1}, resume=True)),
        ("bare", lambda: command.adapt(resume_recipe(tmp_path / "bare"), True, Listener())),
    ]
    for out, again in ways:
        pipe(monkeypatch, reviews.read_bytes())
        with pytest.raises(Killed):
            adapt(out=out, train="-", more={"train.save_every": 1}, at=kill_at(2))
        pipe(monkeypatch, b"")
        again()
        assert same_tensors(adapter_tensors(tmp_path / out), adapter_tensors(tmp_path / "straight"))


def test_a_pipe_is_read_once_even_if_the_load_is_killed(
    adapt: Adapt, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.backend import load as load_file

    def kill(*_: object) -> None:
        raise Killed

    pipe(monkeypatch, reviews.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(load_file, "load_base", kill)
        with pytest.raises(Killed):
            adapt(train="-")
    pipe(monkeypatch, b"")
    adapt(train="-", resume=True)


@pytest.mark.parametrize("before", ["a wrong row", "a kill while the model loads", "a kill, and --resume"])
def test_new_rows_in_a_pipe_are_the_ones_that_count(
    before: str, adapt: Adapt, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left over from an earlier attempt in the same folder that never began."""
    from ctxtune.backend import load as load_file

    def kill(*_: object) -> None:
        raise Killed

    wrong = reviews.read_bytes().replace(b"positive", b"postive" if before == "a wrong row" else b"negative")
    pipe(monkeypatch, wrong)
    with monkeypatch.context() as patch:
        patch.setattr(load_file, "load_base", kill)
        with pytest.raises(DataError if before == "a wrong row" else Killed):
            adapt(train="-")
    pipe(monkeypatch, reviews.read_bytes())
    adapt(train="-", resume=before.endswith("--resume"))
    assert (tmp_path / "run" / "stdin.jsonl").read_bytes() == reviews.read_bytes()
    adapt(out="file")
    assert same_tensors(adapter_tensors(tmp_path / "run"), adapter_tensors(tmp_path / "file"))


# --- what it leaves


@pytest.fixture
def full(adapt: Adapt, dev: Path) -> dict[str, Any]:
    """A run with everything: evaluations, a probe, a rate that was found, several epochs."""
    more = {
        "data.eval": str(dev),
        "forget.probe": "builtin",
        "train.lr": "auto",
        "train.steps": None,
        "train.epochs": 3.0,
    }
    return adapt("llama-tied", more=more)


def test_the_files_of_a_run(full: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        ".lock", "adapter", "best.safetensors", "checkpoint.safetensors", "metrics.jsonl", "recipe.yaml", "result.json"
    }  # fmt: skip
    assert {path.name for path in (run / "adapter").iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip


def test_the_result(full: dict[str, Any], tmp_path: Path, model_folders: dict[str, Path]) -> None:
    facts = read_result(tmp_path / "run")
    assert facts == json.loads(json.dumps(full))
    assert facts["steps"] == 9
    assert facts["train"] == {
        "rows": 22,
        "tokens": facts["train"]["tokens"],
        "supervised_tokens": 22,
        "dropped": 0,
        "truncated": 0,
    }
    assert facts["base"] == fingerprint(model_folders["llama-tied"])
    assert facts["lr"]["value"] in [lr for lr, _ in facts["lr"]["test"]["tried"]]
    assert facts["lr"]["test"]["steps"] > 0
    assert 0 < facts["trainable"] < facts["parameters"]
    assert facts["cache"]["place"] == "memory"
    assert facts["cache"]["bytes"] == facts["train"]["tokens"] * 32 * 4
    assert facts["cache"]["difference"] < 1e-5
    scores = facts["scores"]
    assert scores["before"].keys() == scores["after"].keys() == {
        "rows", "acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "acc_bytes", "acc_bytes_stderr", "loss", "loss_stderr"
    }  # fmt: skip
    assert scores["after"]["rows"] == 10
    assert facts["forgetting"]["before"]["kl"] == 0.0
    assert facts["forgetting"]["after"]["kl"] > 0.0
    assert facts["forgetting"]["after"]["tokens"] == 16 * 63
    assert facts["seconds"].keys() == {"load", "choice", "cache", "before", "rate", "loop", "after", "save", "total"}
    assert facts["seconds"]["total"] >= sum(value for key, value in facts["seconds"].items() if key != "total") - 0.01


def test_the_log(full: dict[str, Any], tmp_path: Path) -> None:
    records = read_metrics(tmp_path / "run")
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 10))
    assert [record["step"] for record in records if "eval_loss" in record] == [3, 6, 9]
    assert sum(record["supervised"] for record in steps) == 3 * 22
    assert sum(record["tokens"] for record in steps) == 3 * full["train"]["tokens"]
    best = min((record["eval_loss"], record["step"]) for record in records if "eval_loss" in record)
    assert (full["scores"]["after"]["loss"], full["best_step"]) == pytest.approx(best, abs=1e-6)


def test_the_adapter_tells_everything(full: dict[str, Any], tmp_path: Path, reviews: Path) -> None:
    from ctxtune.data.hash import sha256_file

    adapter = open_adapter(tmp_path / "run" / "adapter")
    manifest = adapter.manifest
    assert manifest is not None
    settings = {"layers": "last:1", "lr_decay": 1.0, "unfreeze": "at_once", "sample": None, "sample_every": 20}
    assert (manifest.method, manifest.settings) == ("freeze", settings)
    assert manifest.base.fingerprint == full["base"]
    assert manifest.inputs["train"] == sha256_file(reviews)
    assert manifest.trainable == full["trainable"]
    assert manifest.scores.after["acc"] == full["scores"]["after"]["acc"]
    assert manifest.forgetting.after["kl"] == full["forgetting"]["after"]["kl"]
    assert all(check.ok for check in verify(adapter, full["base"]))
    card = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert f"{full['scores']['after']['acc']:.6g}" in card


def test_only_the_owner_reads_training_text(full: dict[str, Any], tmp_path: Path) -> None:
    assert (tmp_path / "run").stat().st_mode & 0o77 == 0


def test_the_recipe_knows_where_its_values_came_from(
    adapt: Adapt, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    adapt(more={"train.clip": None})
    text = (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    assert lines["lr"].endswith("# flag")
    assert lines["seed"].endswith("# default")
    recipe = load(str(tmp_path / "run" / "recipe.yaml"), {}).recipe
    assert recipe.model == str(model_folders["llama-tied"])
    assert recipe.data.train == str(tmp_path / "reviews.jsonl")
    assert recipe.data.choices == CHOICES
    assert (recipe.train.lr, recipe.train.batch, recipe.train.steps) == (1e-3, 8, 3)
    assert recipe.inputs is not None
    assert recipe.inputs.keys() == {"train", "model"}


@pytest.mark.parametrize("where", ["the run's folder", "the adapter's header"])
def test_the_recipe_run_again_gives_the_same_bits(
    where: str, adapt: Adapt, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # paths in the header are relative to where the command was called
    more = {
        "data.eval": str(dev),
        "forget.probe": "builtin",
        "train.lr": "auto",
        "train.steps": 7,
        "train.eval_every": 3,
    }
    first = adapt(more=more)
    recipe = tmp_path / "run" / "recipe.yaml"
    if where != "the run's folder":
        manifest = open_adapter(tmp_path / "run" / "adapter").manifest
        assert manifest is not None
        recipe = tmp_path / "again.yaml"
        recipe.write_text(manifest.recipe, encoding="utf-8")
    again = command.adapt(load(str(recipe), {"out": str(tmp_path / "again")}), False, Listener())
    assert same_tensors(adapter_tensors(tmp_path / "again"), adapter_tensors(tmp_path / "run"))
    assert losses(tmp_path / "again") == losses(tmp_path / "run")
    assert (again["scores"], again["forgetting"]) == (first["scores"], first["forgetting"])


def test_seeds(adapt: Adapt, tmp_path: Path) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        adapt(out=out, more={"train.seed": seed})
    assert same_tensors(adapter_tensors(tmp_path / "a"), adapter_tensors(tmp_path / "b"))
    assert not same_tensors(adapter_tensors(tmp_path / "a"), adapter_tensors(tmp_path / "c"))


@pytest.mark.parametrize("kind", ["llama-untied", "gpt2-tied", "bert-tied"])
def test_the_scores_are_those_of_the_adapter(
    kind: str, adapt: Adapt, dev: Path, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    """What the run said of base and tuned model is what `eval` says of them from the files."""
    more = {
        "data.eval": str(dev),
        "train.lr": 1e-2,
        "train.steps": 12,
        "method.layers": "last:2+norms",
        "train.eval_every": 4,
    }
    facts = adapt(kind, more=more)
    flags = {"model": str(model_folders[kind]), "device": "cpu"}
    base = evaluate(str(tmp_path / "run" / "recipe.yaml"), flags, [], None, False, lambda text: None)["scores"]
    tuned = evaluate(None, {"device": "cpu"}, [], tmp_path / "run", False, lambda text: None)["scores"]
    for said, found in ((facts["scores"]["before"], base), (facts["scores"]["after"], tuned)):
        assert {key: found[key] for key in said} == pytest.approx(said, abs=1e-5)
    assert abs(base["loss"] - tuned["loss"]) > 1e-3


def test_learning_learns(adapt: Adapt, dev: Path) -> None:
    facts = adapt(
        "llama-tied", more={"data.eval": str(dev), "train.lr": 1e-2, "train.steps": 40, "method.layers": "last:2"}
    )
    before, after = facts["scores"]["before"], facts["scores"]["after"]
    assert after["loss"] < before["loss"] / 2
    assert after["acc"] == 1.0


def test_bert_by_cloze(adapt: Adapt, dev: Path, tmp_path: Path) -> None:
    """Of one piece each: where the answers differ in length, the number of masks gives the right one away."""
    more = {
        "data.eval": str(dev), "forget.probe": "builtin", "train.lr": 1e-2, "train.steps": 60, "method.layers": "last:2",
        "data.prompt": "{{ text }} . it was", "cache": "disk", "data.choices": ["bad", "good"],
        "data.answer": "{{ 'good' if label == 'positive' else 'bad' }}",
    }  # fmt: skip
    facts = adapt("bert-tied", more=more)
    assert facts["scores"]["after"]["loss"] < facts["scores"]["before"]["loss"]
    assert facts["scores"]["after"]["acc"] == 1.0
    assert facts["forgetting"]["after"]["kl"] > 0
    assert facts["cache"]["place"] == "disk"
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["task_type"] is None


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-untied"])
def test_free_answers(kind: str, adapt: Adapt, dev: Path) -> None:
    more = {"data.eval": str(dev), "data.choices": None, "train.lr": 1e-2, "train.steps": 40, "method.layers": "last:2"}
    facts = adapt(kind, more=more)
    assert facts["train"]["supervised_tokens"] >= 2 * 22  # the end-of-text token is one of them
    before, after = facts["scores"]["before"], facts["scores"]["after"]
    assert after.keys() >= {"rows", "loss", "perplexity", "token_perplexity", "greedy_acc", "greedy_acc_stderr"}
    assert after["perplexity"] < before["perplexity"]
    assert after["greedy_acc"] > before["greedy_acc"]


def test_no_probe_measures_nothing(adapt: Adapt) -> None:
    assert adapt()["forgetting"] == {"before": {}, "after": {}}


def test_a_probe_of_ones_own(adapt: Adapt, tmp_path: Path) -> None:
    probe = tmp_path / "probe.txt"
    probe.write_text("It was good, very good.", encoding="utf-8")
    facts = adapt(more={"forget.probe": str(probe)})
    assert 0 < facts["forgetting"]["after"]["tokens"] < 63


def test_a_probe_of_a_single_token(adapt: Adapt, tmp_path: Path) -> None:
    probe = tmp_path / "probe.txt"
    probe.write_text("a", encoding="utf-8")
    with pytest.raises(CtxtuneError):
        adapt("gpt2-tied", more={"forget.probe": str(probe)})


@pytest.mark.parametrize("count", [1, 2])
def test_a_few_rows_to_score(count: int, adapt: Adapt, tmp_path: Path) -> None:
    """The standard error of one row is not known: null in the result, and the log stays JSON as well."""
    dev = write_jsonl(tmp_path / "few.jsonl", review_rows(count))
    facts = adapt(more={"data.eval": str(dev)})
    assert (facts["scores"]["after"]["acc_stderr"] is None) == (count == 1)
    assert read_result(tmp_path / "run")["scores"] == facts["scores"]


def test_the_log_of_one_row_to_score_is_json(adapt: Adapt, tmp_path: Path) -> None:
    adapt(more={"data.eval": str(write_jsonl(tmp_path / "one.jsonl", review_rows(1)))})
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")


def test_a_single_row_to_learn_from(resolve: Resolve, tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", review_rows(1))
    more, listener = {"train.lr": "auto", "train.steps": None, "train.epochs": 2.0}, Listener()
    facts = command.adapt(resolve("llama-tied", one, "run", more), False, listener)
    assert (facts["steps"], facts["train"]["rows"]) == (2, 1)
    assert facts["lr"] == {"value": 1e-4, "test": None}
    assert (
        "lr auto: too few rows to hold any out (1, and 8 are the least): rate 1e-04 is taken, untried" in listener.notes
    )
    assert not any("held-out loss" in note for note in listener.notes)


def test_a_part_of_an_epoch(adapt: Adapt) -> None:
    assert adapt(more={"train.steps": None, "train.epochs": 0.1})["steps"] == 1
    assert adapt(out="b", more={"train.steps": None, "train.epochs": 1.5})["steps"] == 5


def test_patience_and_the_best_step(adapt: Adapt, dev: Path, tmp_path: Path) -> None:
    more = {"data.eval": str(dev), "train.lr": 1.0, "train.steps": 50, "train.eval_every": 1, "train.patience": 2}
    facts = adapt(more=more)
    evaluated = [record["eval_loss"] for record in read_metrics(tmp_path / "run") if "eval_loss" in record]
    assert facts["stopped_early"]
    assert facts["steps"] == len(evaluated) == facts["best_step"] + 2
    assert facts["scores"]["after"]["loss"] == pytest.approx(min(evaluated), abs=1e-6)


def test_without_eval_rows_the_last_step_is_kept(adapt: Adapt) -> None:
    facts = adapt()
    assert (facts["best_step"], facts["steps"]) == (3, 3)
    assert facts["scores"] == {"before": {}, "after": {}}


def test_rows_that_are_too_long(adapt: Adapt, resolve: Resolve, reviews: Path, tmp_path: Path) -> None:
    listener = Listener()
    facts = command.adapt(
        resolve("llama-tied", reviews, "drop", {"data.max_length": 40, "data.on_long": "drop"}), False, listener
    )
    dropped = facts["train"]["dropped"]
    assert 0 < dropped < 22
    assert facts["train"]["rows"] == 22 - dropped
    assert any(f"{dropped} of 22 training rows" in note for note in listener.notes)
    facts = adapt(out="cut", more={"data.max_length": 40, "data.on_long": "truncate"})
    assert facts["train"]["truncated"] == dropped
    with pytest.raises(DataError, match=r"reviews\.jsonl line \d+: .* tokens are more than 40"):
        adapt(out="error", more={"data.max_length": 40})


def test_eval_rows_that_are_all_too_long(adapt: Adapt, tmp_path: Path) -> None:
    short = write_jsonl(tmp_path / "short.jsonl", [{"text": "a", "label": "positive"}])
    long = write_jsonl(tmp_path / "long.jsonl", [{"text": "b" * 60, "label": "positive"}])
    with pytest.raises(DataError, match="all eval rows"):
        adapt(train=short, more={"data.eval": str(long), "data.max_length": 40, "data.on_long": "drop"})


def test_micro_batches_change_nothing(adapt: Adapt, tmp_path: Path) -> None:
    adapt(out="whole")
    adapt(out="parts", more={"train.micro_batch": 1})
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)


# --- the cache


def test_caches(adapt: Adapt, tmp_path: Path, ctxtune_home: Path) -> None:
    places = [adapt(out=f"{i}", more={"cache": cache})["cache"]["place"] for i, cache in enumerate(
        ["off", "memory", "disk", "disk", "auto", "memory"]
    )]  # fmt: skip
    assert places == ["off", "memory", "disk", "kept", "kept", "memory"]
    assert len(list((ctxtune_home / "states").iterdir())) == 1
    assert losses(tmp_path / "3") == losses(tmp_path / "2")


def test_states_that_are_not_exact_are_not_used(
    adapt: Adapt, resolve: Resolve, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapt(out="off", more={"cache": "off"})
    fill = feed_file.Feed._fill

    def wrong(self: Any, data: torch.Tensor, offsets: Any) -> None:
        fill(self, data, offsets)
        data.mul_(1.5)

    monkeypatch.setattr(feed_file.Feed, "_fill", wrong)
    listener = Listener()
    facts = command.adapt(resolve("llama-tied", reviews, "wrong"), False, listener)
    assert facts["cache"]["place"] == "off"
    assert facts["cache"]["difference"] > 1e-3
    assert any("differ" in note for note in listener.notes)
    assert losses(tmp_path / "wrong") == pytest.approx(losses(tmp_path / "off"), abs=5e-6)


def test_rows_that_cannot_be_packed_are_not(
    adapt: Adapt, resolve: Resolve, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family of which nobody knows how, and one that does not keep examples apart; both say so, and train as ever."""
    monkeypatch.setattr(feed_file, "keep_apart", lambda base, ids, order, *_: (None, order * 0 + order.shape[1] - 1))
    for kind, reason in (("olmo2-untied", "is not known of family 'olmo2'"), ("llama-tied", "packed rows differ")):
        adapt(kind, f"{kind} plain")
        listener = Listener()
        facts = command.adapt(resolve(kind, reviews, f"{kind} packed", {"train.pack": True}), False, listener)
        assert facts["packed"] is False
        assert any(note.startswith("train.pack: ") and reason in note for note in listener.notes)
        assert facts["cache"]["place"] == "memory"
        assert same_tensors(adapter_tensors(tmp_path / f"{kind} plain"), adapter_tensors(tmp_path / f"{kind} packed"))


# --- going on, and refusing to


def test_a_run_without_out_goes_below_runs(adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    facts = adapt(more={"out": None})
    assert facts["out"] == "runs/reviews-freeze"
    assert (tmp_path / "runs" / "reviews-freeze" / "result.json").is_file()
    with pytest.raises(RecipeError, match="holds a complete run"):
        adapt(more={"out": None})


def test_a_complete_run_has_nothing_to_resume(adapt: Adapt, resolve: Resolve, reviews: Path, tmp_path: Path) -> None:
    facts = adapt()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.name != ".lock"}
    listener = Listener()
    again = command.adapt(resolve("llama-tied", reviews), True, listener)
    assert json.loads(json.dumps(facts)) == again
    assert any("complete" in note for note in listener.notes)
    assert listener.steps == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.name != ".lock"} == stamps


def test_what_is_known_is_not_done_again(
    adapt: Adapt, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run takes the rate and the base's scores from its checkpoint."""
    from ctxtune.commands.judge import Judge
    from ctxtune.engine import rate

    more = {"data.eval": str(dev), "train.lr": "auto", "train.steps": 4, "train.save_every": 2, "train.eval_every": 4}
    with pytest.raises(Killed):
        adapt(more=more, at=kill_at(3))
    monkeypatch.setattr(rate, "find_rate", lambda *_, **__: pytest.fail("the rate was looked for again"))
    scored: list[dict[str, float]] = []
    choose = Judge.choose

    def spy(judge: Judge, when: str = "") -> dict[str, float]:
        scored.append(choose(judge, when))
        return scored[-1]

    monkeypatch.setattr(Judge, "choose", spy)
    facts = adapt(more=more, resume=True)
    assert len(scored) == 1  # the evaluation of step 4, which is the result
    assert facts["scores"]["before"] != facts["scores"]["after"]


@pytest.mark.parametrize("more", [{}, {"train.lr": 1.0, "train.patience": 2, "train.steps": 50}], ids=["end", "best"])
def test_the_best_step_is_not_scored_again(
    more: dict[str, Any], adapt: Adapt, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.commands.judge import Judge

    scored: list[dict[str, float]] = []
    choose = Judge.choose

    def spy(judge: Judge, when: str = "") -> dict[str, float]:
        scored.append(choose(judge, when))
        return scored[-1]

    monkeypatch.setattr(Judge, "choose", spy)
    facts = adapt(more={"data.eval": str(dev), "train.steps": 6, "train.eval_every": 1, **more})
    assert len(scored) == facts["steps"]
    best = min(scored, key=lambda one: one["loss"])
    assert scored[facts["best_step"] - 1] == best
    assert facts["scores"]["after"] == {name: value for name, value in best.items() if not name.startswith("kl_base")}
    assert facts["forgetting"]["after"]["task_kl"] == best["kl_base"]
    assert not more or facts["best_step"] == facts["steps"] - 2


def test_what_a_killed_run_left_half_written_is_swept(adapt: Adapt, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        adapt(more={"train.save_every": 1}, at=kill_at(2))
    names = ("checkpoint.safetensors", "best.safetensors", "metrics.jsonl", "result.json", "adapter")
    for name in names:
        (tmp_path / "run" / f".{name}.{1 << 30}-0badf00d.tmp").write_text("half", encoding="utf-8")
    adapt(more={"train.save_every": 1}, resume=True)
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.endswith(".tmp")]


OTHER = {
    "train.lr": 2e-3, "train.batch": 4, "train.seed": 5, "train.steps": 9, "method.layers": "last:2", "cache": "off",
    "data.prompt": "{{ text }}", "data.choices": ["positive", "negative"], "forget.probe": "builtin",
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), OTHER.items(), ids=OTHER)
def test_resuming_with_other_values_is_refused(key: str, value: Any, adapt: Adapt, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        adapt(at=kill_at(1))
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    with pytest.raises(RecipeError, match=key) as caught:
        adapt(more={key: value}, resume=True)
    assert "resume" in str(caught.value.hint)
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before
    adapt(resume=True)


def test_resuming_a_complete_run_with_other_values_is_refused(adapt: Adapt) -> None:
    adapt()
    with pytest.raises(RecipeError, match=r"train\.lr"):
        adapt(more={"train.lr": 5e-3}, resume=True)


def test_resuming_what_never_began(adapt: Adapt, tmp_path: Path) -> None:
    adapt(resume=True)
    assert (tmp_path / "run" / "result.json").is_file()
    with pytest.raises(RecipeError, match="holds no run to resume"):
        resume_recipe(tmp_path / "nowhere")


def test_resuming_with_an_emptied_recipe(adapt: Adapt, tmp_path: Path) -> None:
    """Neither a recipe of another method is the way out, nor to remove it, which leaves files of nothing."""
    with pytest.raises(Killed):
        adapt(at=kill_at(2))
    (tmp_path / "run" / "recipe.yaml").write_text("", encoding="utf-8")
    for again in (lambda: adapt(resume=True), lambda: resume_recipe(tmp_path / "run")):
        with pytest.raises(RecipeError, match=r"recipe\.yaml is empty") as caught:
            again()
        assert caught.value.hint == "choose another --out"


@pytest.mark.parametrize("name", ["checkpoint", "best"])
def test_the_way_out_of_a_broken_checkpoint(name: str, adapt: Adapt, dev: Path, tmp_path: Path) -> None:
    more = {"data.eval": str(dev), "train.save_every": 1, "train.eval_every": 1, "train.lr": 1e-9, "train.patience": 2}
    straight = adapt(out="straight", more=more)
    adapt(more=more)
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / f"{name}.safetensors").write_bytes(b"x")
    with pytest.raises(CtxtuneError, match=f"{name}.safetensors: the checkpoint cannot be read") as caught:
        adapt(more=more, resume=True)
    last = tmp_path / "run" / "checkpoint.safetensors"
    assert f"remove {last}, and --resume trains from the beginning" in str(caught.value.hint)
    last.unlink()
    assert adapt(more=more, resume=True)["scores"] == straight["scores"]


def test_rows_that_changed_meanwhile(adapt: Adapt, reviews: Path) -> None:
    with pytest.raises(Killed):
        adapt(at=kill_at(2))
    write_jsonl(reviews, review_rows(22, 1))
    with pytest.raises(DataError, match=r"has changed since the recipe was written: inputs\.train"):
        adapt(resume=True)


def test_the_result_of_a_complete_run_is_that_of_its_rows(adapt: Adapt, reviews: Path, dev: Path) -> None:
    more = {"data.eval": str(dev)}
    facts = json.loads(json.dumps(adapt(more=more)))
    whole = reviews.read_bytes()
    for path, key in ((reviews, "train"), (dev, "eval")):
        kept = path.read_bytes()
        path.write_bytes(kept[: kept.index(b"\n") + 1])
        with pytest.raises(DataError, match=rf"has changed since the recipe was written: inputs\.{key}"):
            adapt(more=more, resume=True)
        path.write_bytes(kept)
    reviews.unlink()  # rows that are gone are no others
    assert adapt(more=more, resume=True) == facts
    reviews.write_bytes(whole)


@pytest.mark.parametrize("how", ["complete", "killed"])
def test_other_rows_in_the_pipe_of_a_run_that_goes_on(
    how: str, adapt: Adapt, reviews: Path, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, reviews.read_bytes())
    with nullcontext() if how == "complete" else pytest.raises(Killed):
        adapt(train="-", at=kill_at(2) if how == "killed" else lambda facts: None)
    pipe(monkeypatch, reviews.read_bytes() + reviews.read_bytes())
    with pytest.raises(DataError, match=r"standard input has other rows than those that .*run has begun with"):
        adapt(train="-", resume=True)
    with pytest.raises(RecipeError, match=r"data\.train is .*stdin\.jsonl'"):
        adapt(train=dev, resume=True)
    pipe(monkeypatch, reviews.read_bytes())
    assert adapt(train="-", resume=True)["train"]["rows"] == 22


def test_a_pipe_in_place_of_a_file_is_other_rows(adapt: Adapt, reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapt()
    pipe(monkeypatch, reviews.read_bytes())
    with pytest.raises(RecipeError, match=r"data\.train is .*reviews\.jsonl', but '-' is asked for"):
        adapt(train="-", resume=True)


def test_rows_to_score_that_changed_meanwhile(adapt: Adapt, dev: Path) -> None:
    with pytest.raises(Killed):
        adapt(more={"data.eval": str(dev)}, at=kill_at(2))
    write_jsonl(dev, review_rows(9))
    with pytest.raises(DataError, match=r"inputs\.eval"):
        adapt(more={"data.eval": str(dev)}, resume=True)


def test_a_probe_that_changed_meanwhile(adapt: Adapt, tmp_path: Path) -> None:
    probe = tmp_path / "probe.txt"
    probe.write_text("It was good. " * 20, encoding="utf-8")
    more = {"forget.probe": str(probe), "train.save_every": 1}
    with pytest.raises(Killed):
        adapt(more=more, at=kill_at(2))
    probe.write_text("A mess of a film, cold and slow. " * 30, encoding="utf-8")
    with pytest.raises(DataError, match="has changed"):
        adapt(more=more, resume=True)


def test_a_model_that_changed_meanwhile(adapt: Adapt, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    model = shutil.copytree(model_folders["llama-tied"], tmp_path / "model")
    with pytest.raises(Killed):
        adapt(more={"model": str(model)}, at=kill_at(2))
    shutil.copy(model_folders["llama-untied"] / "model.safetensors", model)
    shutil.copy(model_folders["llama-untied"] / "config.json", model)
    with pytest.raises(RecipeError, match=r"inputs\.model"):
        adapt(more={"model": str(model)}, resume=True)


def test_a_broken_checkpoint(adapt: Adapt, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        adapt(more={"train.save_every": 1}, at=kill_at(2))
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    with pytest.raises(CtxtuneError, match="checkpoint cannot be read") as caught:
        adapt(more={"train.save_every": 1}, resume=True)
    assert caught.value.hint


def test_foreign_files_are_left_alone(adapt: Adapt, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"holds other files: notes\.txt"):
        adapt()
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"notes.txt", ".lock"}


def test_two_runs_at_once(adapt: Adapt, tmp_path: Path) -> None:
    refused: list[str] = []

    def second(_: object) -> None:
        for resume in (True, False):
            with pytest.raises(StorageError, match="another run is writing there") as caught:
                adapt(resume=resume)
            refused.append(str(caught.value))

    adapt(at=second)
    assert len(refused) == 6
    adapt(out="beside")
    assert same_tensors(adapter_tensors(tmp_path / "run"), adapter_tensors(tmp_path / "beside"))


def test_a_mistake_leaves_the_folder_free(adapt: Adapt, tmp_path: Path) -> None:
    for more in ({"method.layers": "last:9"}, {"data.max_length": 3}, {"data.prompt": "{{ nothing }}"}):
        with pytest.raises(CtxtuneError):
            adapt(more=more)
    adapt()


def test_a_rate_far_too_high(adapt: Adapt, tmp_path: Path) -> None:
    """The numbers overflow: an error, no adapter, and the last checkpoint is from before."""
    more = {"train.lr": 100.0, "train.steps": 40, "train.save_every": 1, "train.schedule": "constant", "method.layers": "all",
            "train.weight_decay": 10.0, "train.clip": None}  # fmt: skip
    with pytest.raises(CtxtuneError, match=r"the loss is (nan|inf)|gradient") as caught:
        adapt(more=more)
    assert "--lr" in str(caught.value.hint)
    assert not (tmp_path / "run" / "adapter").exists()
    assert not (tmp_path / "run" / "result.json").exists()


# --- being stopped


def test_a_signal_while_the_frozen_layers_run(adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapt(out="straight", more={"cache": "disk"})
    shutil.rmtree(tmp_path / "home")
    with monkeypatch.context() as patch:
        patch.setattr(feed_file.Feed, "_fill", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="SIGTERM"):
            adapt(more={"cache": "disk"})
    assert not list((tmp_path / "home" / "states").iterdir())
    adapt(more={"cache": "disk"}, resume=True)
    assert same_tensors(adapter_tensors(tmp_path / "run"), adapter_tensors(tmp_path / "straight"))


def test_the_handlers_of_before_stand_again(adapt: Adapt) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    adapt()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# --- a full disk


class Full:
    """Stands for fsync or rename on a disk that is full from the n-th call on, for one call or for good."""

    def __init__(self, real: Callable[..., Any], after: int) -> None:
        self.real = real
        self.after = after
        self.calls = 0

    def function(self) -> Callable[..., Any]:
        """A plain function, so that it can stand for a method."""

        def call(*given: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls > self.after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.real(*given, **named)

        return call


@pytest.mark.parametrize(("place", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_full_disk_at_every_moment(
    place: Any, name: str, adapt: Adapt, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the disk fills up, the run ends with one clear error, leaves no litter, and goes on when there is room."""
    more = {"data.eval": str(dev), "train.steps": 4, "train.save_every": 2, "train.eval_every": 2, "cache": "disk"}
    adapt(out="straight", more=more)
    real = getattr(place, name)
    failed = 0
    for after in range(40):
        out = f"full{after}"
        home = tmp_path / f"home{after}"
        monkeypatch.setenv("CTXTUNE_HOME", str(home))
        full = Full(real, after)
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full.function())
            try:
                adapt(out=out, more=more)
            except StorageError as error:
                said = str(error)
            else:
                break
        failed += 1
        assert "\n" not in said
        assert "space" in said.lower() or "room" in said
        assert not [path for path in (*(tmp_path / out).rglob("*"), *home.rglob("*")) if path.name.endswith(".tmp")], (
            said
        )
        adapt(out=out, more=more, resume=True)
        assert same_tensors(adapter_tensors(tmp_path / out), adapter_tensors(tmp_path / "straight")), after
        shutil.rmtree(tmp_path / out)
    assert failed >= 5


def test_a_full_disk_keeps_the_last_good_checkpoint(
    adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.engine.checkpoint import read_state

    real = os.fsync
    room = [True]

    def fsync(handle: int) -> None:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    def fill(facts: Any) -> None:
        room[0] = facts.step < 3

    monkeypatch.setattr(os, "fsync", fsync)
    more = {"train.steps": 4, "train.save_every": 1}
    with pytest.raises(StorageError, match=r"no room on the disk for .*checkpoint"):
        adapt(more=more, at=fill)
    state = read_state(tmp_path / "run" / "checkpoint.safetensors")
    assert state is not None
    assert state["loop"]["step"] == 2
    room[0] = True
    adapt(more=more, resume=True)
    adapt(out="straight", more=more)
    assert same_tensors(adapter_tensors(tmp_path / "run"), adapter_tensors(tmp_path / "straight"))


# --- wrong input


def test_wrong_rows_are_named_by_file_and_line(adapt: Adapt, tmp_path: Path) -> None:
    rows = [*review_rows(3), {"text": "x", "label": "postive"}]
    wrong = write_jsonl(tmp_path / "wrong.jsonl", rows)
    with pytest.raises(DataError, match=r"wrong\.jsonl line 4: the answer 'postive' is none of the choices") as caught:
        adapt(train=wrong)
    assert "positive" in str(caught.value.hint)
    with pytest.raises(DataError, match=r"wrong\.jsonl line 4"):
        adapt(more={"data.eval": str(wrong)})


def test_nothing_to_learn_from(adapt: Adapt, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(DataError, match="has no rows"):
        adapt(train=empty)
    with pytest.raises(RecipeError, match=r"data\.train is missing"):
        adapt(more={"data.train": None})
    with pytest.raises(DataError, match="folder"):
        adapt(train=tmp_path)


def test_a_model_that_is_not_there(adapt: Adapt, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        adapt(more={"model": str(tmp_path / "nowhere")})
    with pytest.raises(ModelError):
        adapt(more={"model": str(tmp_path)})


@pytest.mark.parametrize("where", ["in the prompt", "in the answer"])
def test_a_tokenizer_with_more_tokens_than_the_model(
    where: str, adapt: Adapt, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    """As it is left behind by those who add tokens and forget to widen the embeddings."""
    from transformers import AutoTokenizer

    model = shutil.copytree(model_folders["llama-tied"], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["wonderful"])
    tokenizer.save_pretrained(model)
    train = write_jsonl(tmp_path / "train.jsonl", [{"text": "wonderful", "label": "positive"}])
    free = {"data.choices": None, "data.prompt": "", "data.answer": "{{ text }}"}
    with pytest.raises(ModelError, match="token"):
        adapt(train=train, more={"model": str(model), **(free if where == "in the answer" else {})})


def test_paths_of_any_letters(adapt: Adapt, reviews: Path, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    place = tmp_path / "ein Ordner: 'ü' #1 {x}"
    place.mkdir()
    model = shutil.copytree(model_folders["llama-tied"], place / "model")
    train = Path(shutil.copy(reviews, place / "rows & more.jsonl"))
    adapt(out=f"{place.name}/run", train=train, more={"model": str(model)})
    again = load(str(place / "run" / "recipe.yaml"), {"out": str(tmp_path / "again")})
    command.adapt(again, False, Listener())
    assert same_tensors(adapter_tensors(tmp_path / "again"), adapter_tensors(place / "run"))


def test_the_base_is_not_touched(
    adapt: Adapt, model_folders: dict[str, Path], open_base: Callable[[str], Base]
) -> None:
    folder = model_folders["gpt2-tied"]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    adapt("gpt2-tied", more={"method.layers": "all"})
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


def test_a_family_found_by_structure_is_told(resolve: Resolve, reviews: Path, dev: Path, tmp_path: Path) -> None:
    from ctxtune.commands import adapt as command
    from ctxtune.commands.evaluate import evaluate

    listener, said = Listener(), list[str]()
    facts = command.adapt(resolve("falcon-tied", reviews), False, listener)
    assert "family 'falcon' is not in the table, its parts were found by structure" in facts["structure"]
    assert "largest difference" in facts["structure"]
    assert listener.notes.count(facts["structure"]) == 1
    evaluate(None, {"device": "cpu", "data.eval": str(dev)}, [], tmp_path / "run", False, said.append)
    assert said.count(facts["structure"]) == 1
    assert command.adapt(resolve("llama-tied", reviews, "other"), False, Listener())["structure"] is None
