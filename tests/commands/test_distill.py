"""A short prompt distilled from a long one, from the recipe to the adapter, with few-shot prompting beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.verify import verify
from ctxtune.commands import begin
from ctxtune.commands.dry_run import dry_run
from ctxtune.commands.evaluate import evaluate
from ctxtune.data.shots import choose
from ctxtune.errors import CtxtuneError, DataError, RecipeError, StorageError
from ctxtune.evals.calibrate import log_shares
from ctxtune.recipe.load import load

from ..conftest import CHOICES, PROMPT, Killed, Listener, adapter_tensors, kill_at, same_tensors, write_jsonl
from ..test_prompt_laws import KINDS as CAUSAL_KINDS
from .test_prompt import asked, short

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KINDS = ["prefix", "input", "residual", "ptuning", "suffix"]
DISTIL: dict[str, Any] = {"method.distill_from": "fewshot", "method.tokens": 4, "method.shots": 2}


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "train.jsonl", short(24))


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "dev.jsonl", short(10, 24))


def told(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "teacher.json").read_text())
    return found


@pytest.mark.parametrize("kind", ["prefix", "input", "suffix"])
@pytest.mark.parametrize("model", CAUSAL_KINDS)
def test_a_run_and_its_adapter(
    model: str, kind: str, model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    """The teacher is few-shot prompting; the student comes nearer to it; its file gives the same scores again."""
    from ctxtune.commands.adapt import adapt
    from ctxtune.commands.fewshot import fewshot

    more = DISTIL | {"method.kind": kind, "data.eval": str(dev), "train.steps": 6}
    facts = adapt(asked(model_folders[model], train, tmp_path / "run", more), False, Listener())
    shown = load(None, {
        "model": str(model_folders[model]), "data.train": str(train), "data.eval": str(dev), "data.prompt": PROMPT,
        "data.answer": "{{ label }}", "data.choices": CHOICES, "method.name": "fewshot", "method.shots": 2,
        "device": "cpu",
    })  # fmt: skip
    scored = fewshot(shown, lambda _: None, tmp_path / "items.jsonl")
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    expected = log_shares(np.array([item["said"]["ll"] for item in items]))
    assert np.abs(np.array(told(tmp_path / "run")["log_shares"]["eval"]) - expected).max() < 2e-5
    assert len(told(tmp_path / "run")["log_shares"]["train"]) == 22
    teacher = facts["teacher"]
    assert teacher["scores"]["loss"] == pytest.approx(scored["scores"]["loss"], abs=2e-5)
    assert teacher["tokens"] > facts["method"]["tokens"] == 4
    start, after = facts["start"]["scores"], facts["scores"]["after"]
    assert 0 <= after["kl_teacher"] <= start["kl_teacher"]
    assert all(check.ok for check in verify(open_adapter(tmp_path / "run")))
    again = evaluate(None, {"data.eval": str(dev)}, [], tmp_path / "run", False, lambda _: None)
    for name in ("acc", "loss"):
        assert again["scores"][name] == pytest.approx(after[name], abs=2e-5)


def test_the_teacher_of_the_rows_that_are_learned_from(
    model_folders: dict[str, Path], train: Path, tmp_path: Path
) -> None:
    """Asked as rows to score, the training rows get what the run was pulled by; its first loss is the divergence from that."""
    from ctxtune.commands.adapt import adapt
    from ctxtune.commands.fewshot import fewshot

    model, listener = model_folders["llama-tied"], Listener()
    adapt(asked(model, train, tmp_path / "run", DISTIL | {"train.batch": 22, "train.steps": 1}), False, listener)
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    shown = choose("balanced", [CHOICES.index(row["label"]) for row in rows], 2, 0)
    rest = write_jsonl(tmp_path / "rest.jsonl", [row for at, row in enumerate(rows) if at not in shown])
    flags = {
        "model": str(model), "data.train": str(train), "data.eval": str(rest), "data.prompt": PROMPT,
        "data.answer": "{{ label }}", "data.choices": CHOICES, "method.name": "fewshot", "method.shots": 2,
        "device": "cpu",
    }  # fmt: skip
    fewshot(load(None, flags), lambda _: None, tmp_path / "items.jsonl")
    lls = [json.loads(line)["said"]["ll"] for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    expected = torch.from_numpy(log_shares(np.array(lls)))
    found = torch.tensor(told(tmp_path / "run")["log_shares"]["train"], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    still = {"train.batch": 22, "train.lr": 1e-12, "train.steps": 1}
    scored = asked(model, train, tmp_path / "start", DISTIL | still | {"data.eval": str(rest)})
    facts = adapt(scored, False, Listener())
    assert listener.steps[0].loss == pytest.approx(facts["start"]["scores"]["kl_teacher"], rel=1e-4)
    assert listener.steps[0].supervised == 22


@pytest.mark.parametrize("scored", [True, False])
def test_the_table_sets_them_side_by_side(
    scored: bool, model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    from rich.console import Console

    from ctxtune.cli.freeze import result_table
    from ctxtune.commands.adapt import adapt

    more = DISTIL | ({"data.eval": str(dev), "train.eval_every": 3} if scored else {})
    facts = adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", more), False, Listener())
    console = Console(width=200)
    with console.capture() as said:
        console.print(result_table(facts))
    lines = [line.split() for line in said.get().splitlines()]
    assert ["base", "start", "tuned", "teacher"] in lines
    assert ["trained", "numbers", "0", f"{facts['trainable']:,}"] in lines  # of none that the model has
    tokens = [line for line in lines if line[:2] == ["tokens", "before"]]
    assert tokens[0][4:] == ["0", "4", "4", str(facts["teacher"]["tokens"])]
    assert any(line[:1] == ["KL(teacher"] and line[-1] == "0" for line in lines) is scored
    assert facts["teacher"]["scores"] if scored else facts["teacher"]["scores"] == {}


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_all_of_the_prompt_begins_as_its_own_teacher(
    kind: str, model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    from ctxtune.commands.adapt import adapt

    foreseen = dry_run(asked(model_folders["llama-tied"], train, tmp_path / "run", DISTIL))
    more = DISTIL | {"method.kind": kind, "method.tokens": foreseen["teacher_tokens"], "data.eval": str(dev)}
    listener = Listener()
    facts = adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", more), False, listener)
    assert facts["start"]["scores"]["kl_teacher"] < 1e-6
    assert listener.steps[0].loss < 1e-6
    assert facts["best_step"] == 0 or facts["scores"]["after"]["kl_teacher"] < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 2])
def test_killed_and_resumed_bit_for_bit(
    kind: str, step: int, model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The teacher is asked once: a run that goes on has what it said."""
    from ctxtune.commands.adapt import adapt
    from ctxtune.commands.teacher import LongPrompt

    more = DISTIL | {"method.kind": kind, "train.save_every": 1, "data.eval": str(dev), "train.eval_every": 2}
    straight = adapt(asked(model_folders["llama-tied"], train, tmp_path / "straight", more), False, Listener())
    broken = asked(model_folders["llama-tied"], train, tmp_path / "broken", more)
    with pytest.raises(Killed):
        adapt(broken, False, Listener(kill_at(step)))
    monkeypatch.setattr(LongPrompt, "say", None)
    facts = adapt(broken, True, Listener())
    for name in ("scores", "start", "teacher"):
        assert facts[name] == straight[name]
    assert same_tensors(adapter_tensors(tmp_path / "broken"), adapter_tensors(tmp_path / "straight"))


@pytest.mark.parametrize("more", [{}, {"method.top": 2}, {"method.kind": "suffix"}])
@pytest.mark.parametrize("choices", [CHOICES, ["a fine film", "a dull one", "fine"]])
def test_parts_give_the_gradient_of_the_whole(
    choices: list[str], more: dict[str, Any], model_folders: dict[str, Path], train: Path, tmp_path: Path
) -> None:
    """Choices of one token and of several, which branch; all layers, and the top ones from kept states."""
    from ctxtune.commands.adapt import adapt

    rows = [json.loads(line) for line in train.read_text().splitlines()]
    again = write_jsonl(tmp_path / "own.jsonl", [{**row, "label": choices[at % 2]} for at, row in enumerate(rows)])
    found = []
    for size, cache in ((8, "memory"), (1, "memory"), (3, "off")):
        flags = DISTIL | more | {"train.micro_batch": size, "data.choices": choices, "method.shots": 1, "cache": cache}
        listener = Listener()
        facts = adapt(asked(model_folders["llama-tied"], again, tmp_path / f"run{size}", flags), False, listener)
        assert facts["cache"]["difference"] < 1e-5
        found.append([(step.loss, step.grad_norm) for step in listener.steps])
    for other in found[1:]:
        assert torch.tensor(other) == pytest.approx(torch.tensor(found[0]), rel=1e-4)


def test_labels_are_not_read(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    """Other labels of the rows that are no demonstrations: the same adapter. Those of demonstrations are read."""
    from ctxtune.commands.adapt import adapt

    rows = [json.loads(line) for line in train.read_text().splitlines()]
    labels = [CHOICES.index(row["label"]) for row in rows]
    shown = choose("balanced", labels, 2, 0)
    changed = list(labels)
    for at in range(len(rows)):
        trial = [*changed[:at], 1 - changed[at], *changed[at + 1 :]]
        if at not in shown and choose("balanced", trial, 2, 0) == shown:
            changed = trial
    assert sum(one != other for one, other in zip(labels, changed, strict=True)) > 8
    tensors = []
    for name, some in (("one", labels), ("other", changed), ("third", [1 - label for label in labels])):
        told_rows = [{**row, "label": CHOICES[label]} for row, label in zip(rows, some, strict=True)]
        path = write_jsonl(tmp_path / f"{name}.jsonl", told_rows)
        adapt(asked(model_folders["llama-tied"], path, tmp_path / name, DISTIL), False, Listener())
        tensors.append(adapter_tensors(tmp_path / name))
    assert same_tensors(tensors[0], tensors[1])
    assert not same_tensors(tensors[0], tensors[2])


def test_rows_without_labels_are_learned_from(
    model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    """All but the demonstrations have none, or null: the same as with labels. Where these are learned, that is an error."""
    from ctxtune.commands.adapt import adapt

    model, rows = model_folders["llama-tied"], [json.loads(line) for line in train.read_text().splitlines()]
    shown = choose("balanced", [CHOICES.index(row["label"]) for row in rows], 2, 0)
    some = [
        row if at in shown else {"text": row["text"], **({"label": None} if at % 2 else {})}
        for at, row in enumerate(rows)
    ]
    bare, more = write_jsonl(tmp_path / "bare.jsonl", some), DISTIL | {"data.eval": str(dev)}
    found = [adapt(asked(model, path, tmp_path / path.stem, more), False, Listener()) for path in (train, bare)]
    assert same_tensors(adapter_tensors(tmp_path / "train"), adapter_tensors(tmp_path / "bare"))
    assert found[0]["scores"] == found[1]["scores"]
    assert dry_run(asked(model, bare, tmp_path / "run", DISTIL))["rows"] == 22
    with pytest.raises(DataError, match="training rows are 2 that have an answer"):
        dry_run(asked(model, bare, tmp_path / "run", DISTIL | {"method.shots": 3}))
    with pytest.raises(DataError, match="label"):
        dry_run(asked(model, bare, tmp_path / "run"))


def test_the_step_nearest_to_the_teacher_is_kept(
    model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    """Whatever the labels of the rows to score say: scores depend on them, the adapter does not."""
    from ctxtune.commands.adapt import adapt

    rows = [json.loads(line) for line in dev.read_text().splitlines()]
    other = write_jsonl(tmp_path / "other.jsonl", [{**row, "label": CHOICES[at < 9]} for at, row in enumerate(rows)])
    more, found = DISTIL | {"train.eval_every": 1, "train.steps": 5, "train.lr": 0.1}, []
    for path in (dev, other):
        resolved = asked(model_folders["llama-tied"], train, tmp_path / path.stem, more | {"data.eval": str(path)})
        found.append(adapt(resolved, False, Listener()))
        lines = [json.loads(line) for line in (tmp_path / path.stem / "metrics.jsonl").read_text().splitlines()]
        told = {line["step"]: line["eval_kl_teacher"] for line in lines if "eval_loss" in line}
        told[0] = found[-1]["start"]["scores"]["kl_teacher"]
        assert found[-1]["best_step"] == min(sorted(told), key=told.__getitem__)
    assert found[0]["scores"]["after"]["loss"] != pytest.approx(found[1]["scores"]["after"]["loss"])
    assert same_tensors(adapter_tensors(tmp_path / "dev"), adapter_tensors(tmp_path / "other"))


@pytest.mark.parametrize("most", [5, 32])
def test_how_many_and_what_is_said(
    most: int, model_folders: dict[str, Path], train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Auto is 32 (or here 5) of the teacher's tokens, or all of fewer; the dry run and the run say so."""
    from ctxtune.commands.adapt import adapt

    monkeypatch.setattr(begin, "_SHORT", most)

    resolved = asked(model_folders["gpt2-tied"], train, tmp_path / "run", {**DISTIL, "method.tokens": "auto"})
    foreseen, listener = dry_run(resolved), Listener()
    facts = adapt(resolved, False, listener)
    assert foreseen["method"] == facts["method"]
    assert foreseen["method"]["tokens"] == min(most, foreseen["teacher_tokens"])
    assert foreseen["teacher_tokens"] == facts["teacher"]["tokens"]
    for name in ("supervised_tokens", "tokens", "rows"):
        assert foreseen[name] == facts["train"][name]
    assert any("of demonstrations do" in note for note in listener.notes)
    words = {**DISTIL, "method.init": "text:is it fine or dull", "method.kind": "input"}
    other = adapt(asked(model_folders["gpt2-tied"], train, tmp_path / "words", words), False, Listener())
    assert other["train"]["rows"] == 22
    assert other["teacher"]["tokens"] == facts["teacher"]["tokens"]


def test_the_rate_is_found(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    from ctxtune.commands.adapt import adapt

    facts = adapt(
        asked(model_folders["llama-tied"], train, tmp_path / "run", DISTIL | {"train.lr": "auto"}), False, Listener()
    )
    assert facts["lr"]["test"]["tried"]
    assert all(0 <= loss < 10 for _, loss in facts["lr"]["test"]["tried"])


def test_rows_that_do_not_fit_behind_the_teacher(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    """They are no rows of anything, and are counted; or an error says how many demonstrations fit."""
    from ctxtune.commands.adapt import adapt

    rows = [json.loads(line) for line in train.read_text().splitlines()]
    long = {"text": "x " * 20, "label": CHOICES[0]}
    train = write_jsonl(tmp_path / "long.jsonl", [*rows, long])
    dev = write_jsonl(tmp_path / "dev.jsonl", [*short(4, 24), long])
    more = {**DISTIL, "data.eval": str(dev)}
    with pytest.raises(RecipeError, match="demonstrations take"):
        adapt(asked(model_folders["llama-tied"], train, tmp_path / "error", more), False, Listener())
    listener = Listener()
    resolved = asked(model_folders["llama-tied"], train, tmp_path / "drop", more | {"data.on_long": "drop"})
    facts = adapt(resolved, False, listener)
    assert facts["train"]["dropped"] == 1
    assert any("1 of 25 training rows were too long and dropped" in note for note in listener.notes)
    assert {part["rows"] for part in (facts["teacher"]["scores"], *facts["scores"].values())} == {4}
    none = {**more, "data.on_long": "drop", "data.eval": str(write_jsonl(tmp_path / "none.jsonl", [long]))}
    with pytest.raises(DataError, match="all eval rows were too long"):
        adapt(asked(model_folders["llama-tied"], train, tmp_path / "none", none), False, Listener())


def test_a_row_that_asks_what_a_demonstration_asks(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    """It does not see its own answer: it is asked behind the other demonstration, as few-shot prompting asks it."""
    from ctxtune.commands.adapt import adapt
    from ctxtune.commands.fewshot import fewshot

    rows = [json.loads(line) for line in train.read_text().splitlines()]
    shown = choose("balanced", [CHOICES.index(row["label"]) for row in rows], 2, 0)
    same = [{"text": rows[shown[0]]["text"]}]
    twice = write_jsonl(tmp_path / "twice.jsonl", [*rows, *same])
    adapt(asked(model_folders["llama-tied"], twice, tmp_path / "run", DISTIL), False, Listener())
    flags = {
        "model": str(model_folders["llama-tied"]), "data.prompt": PROMPT, "data.answer": "{{ label }}",
        "data.choices": CHOICES, "method.name": "fewshot", "method.shots": 1, "method.select": "fixed", "device": "cpu",
        "data.train": str(write_jsonl(tmp_path / "other.jsonl", [rows[shown[1]]])),
        "data.eval": str(write_jsonl(tmp_path / "same.jsonl", [rows[shown[0]]])),
    }  # fmt: skip
    fewshot(load(None, flags), lambda _: None, tmp_path / "items.jsonl")
    (line,) = (tmp_path / "items.jsonl").read_text().splitlines()
    expected = log_shares(np.array(json.loads(line)["said"]["ll"]))
    assert told(tmp_path / "run")["log_shares"]["train"][-1] == pytest.approx(expected.tolist(), abs=2e-5)


def test_what_it_refuses(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    from ctxtune.commands.adapt import adapt

    model = model_folders["llama-tied"]
    with pytest.raises(CtxtuneError, match="99 demonstrations"):
        adapt(asked(model, train, tmp_path / "shots", DISTIL | {"method.shots": 99}), False, Listener())
    with pytest.raises(DataError, match="the training rows are 1 beside one to learn from"):
        adapt(asked(model, write_jsonl(tmp_path / "few.jsonl", short(2)), tmp_path / "few", DISTIL), False, Listener())
    flags: dict[str, Any] = {
        "model": str(model), "data.train": str(train), "data.prompt": PROMPT, "data.answer": "{{ label }}",
        "method.name": "prompt", "method.distill_from": "fewshot", "device": "cpu", "out": str(tmp_path / "free"),
    }  # fmt: skip
    for run in (dry_run, lambda resolved: adapt(resolved, False, Listener())):
        with pytest.raises(RecipeError, match="the rows have no choices"):
            run(load(None, flags))
    one = write_jsonl(tmp_path / "one.jsonl", [{**row, "own": [row["label"]]} for row in short(8)])
    own = {**flags, "data.train": str(one), "data.choices": "{{ own }}"}
    with pytest.raises(DataError, match="line 1"):
        adapt(load(None, own), False, Listener())
    chats = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 8
    chat = {key: value for key, value in flags.items() if key not in ("data.prompt", "data.answer")}
    chat |= {"data.train": str(write_jsonl(tmp_path / "chats.jsonl", chats)), "data.messages": "messages"}
    with pytest.raises(CtxtuneError, match="chat"):
        adapt(load(None, chat), False, Listener())
    with pytest.raises(RecipeError, match=r"method\.distill_from"):
        load(None, flags | {"method.distill_from": "another"})


@pytest.mark.parametrize(
    "change",
    [
        lambda said: [said],
        lambda said: {"x": 1},
        lambda said: {**said, "tokens": "9"},
        lambda said: {**said, "log_shares": {**said["log_shares"], "train": said["log_shares"]["train"][1:]}},
        lambda said: {**said, "log_shares": {**said["log_shares"], "eval": [[0.0]] * 10}},
        lambda said: {**said, "log_shares": {**said["log_shares"], "eval": [["a", "b"]] * 10}},
        lambda said: {**said, "log_shares": {"train": said["log_shares"]["train"]}},
    ],
)
def test_a_file_that_is_not_what_the_teacher_said(
    change: Callable[[dict[str, Any]], Any], model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path
) -> None:
    """It is refused in a line; without it the teacher is asked anew, and the run ends as it would have."""
    from ctxtune.commands.adapt import adapt

    resolved = asked(model_folders["llama-tied"], train, tmp_path / "run", DISTIL | {"data.eval": str(dev)})
    with pytest.raises(Killed):
        adapt(resolved, False, Listener(kill_at(1)))
    said = told(tmp_path / "run")
    (tmp_path / "run" / "teacher.json").write_text(json.dumps(change(said)))
    with pytest.raises(
        StorageError, match="is not what a teacher says of 22 rows to learn from and 10 rows to score"
    ) as hint:
        adapt(resolved, True, Listener())
    assert hint.value.hint is not None
    assert hint.value.hint.startswith("remove it")
    (tmp_path / "run" / "teacher.json").unlink()
    adapt(resolved, True, Listener())
    assert told(tmp_path / "run") == said


@pytest.mark.parametrize(("model", "shown"), [("llama-tied", True), ("gpt2-tied", True), ("llama-tied", False)])
def test_a_prefix_starts_from_what_questions_look_at(
    model: str,
    shown: bool,
    model_folders: dict[str, Path],
    train: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each layer values of some of the demonstrations' tokens; the first of all where attention is not shown."""
    from ctxtune.commands.adapt import adapt

    monkeypatch.setattr("ctxtune.commands.transfer._loss", lambda _, __, way, ___: float("first" in way.name))
    if not shown:
        monkeypatch.setattr("ctxtune.methods.prompt.read_attended", lambda *_: None)
    still = {"train.lr": 1e-30, "train.steps": 1, "method.kind": "prefix"}
    for name, more in (("all", {"method.init": "fewshot", "method.shots": 2}), ("few", DISTIL)):
        adapt(asked(model_folders[model], train, tmp_path / name, more | still), False, Listener())
    every, few = (next(iter(adapter_tensors(tmp_path / name).values())) for name in ("all", "few"))
    assert len(few) == 4 < len(every)
    width = few.shape[1] // 8  # keys and values of four layers
    chosen = []
    for layer in range(1, 4):  # in the first, all of one word are alike
        columns = slice((2 * layer + 1) * width, (2 * layer + 2) * width)
        off = (few[:, None, columns] - every[None, :, columns]).abs().amax(-1)
        assert off.amin(1).max() < 1e-5
        chosen.append(off.argmin(1).tolist())
    first = list(range(4))
    assert all(places == sorted(set(places)) for places in chosen)
    assert (chosen == [first] * 3) == (not shown)
    manifest = open_adapter(tmp_path / "few").manifest
    assert manifest is not None
    look = f"those 4 of {len(every)} tokens of the texts below at which questions look most"
    assert str(manifest.start).startswith(look if shown else f"the first 4 of {len(every)} tokens")


def test_the_nearer_of_two_starts(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    """The first tokens and those that questions look at are both tried: the run begins, and is told to, as the better one."""
    from ctxtune.commands.adapt import adapt

    still = {"train.lr": 1e-12, "train.steps": 1, "train.batch": 22, "method.kind": "prefix"}
    listener = Listener()
    facts = adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", DISTIL | still), False, listener)
    best, other = facts["near"]
    assert best["loss"] < other["loss"]
    assert listener.steps[0].loss == pytest.approx(best["loss"], rel=1e-4)
    manifest = open_adapter(tmp_path / "run").manifest
    assert manifest is not None
    assert str(manifest.start).startswith("the first 4" if "first" in best["start"] else "those 4")
