"""What `fewshot` prints, and what it refuses before it begins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..conftest import write_jsonl
from .conftest import Stream, but, pick

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from .conftest import Said


@pytest.fixture
def given(task: list[str]) -> list[str]:
    return [
        *pick(task, "--model", "--train", "--eval", "--prompt", "--answer", "--choices", "--device"),
        "--shots",
        "1",
    ]


def test_the_table_says_what_it_took_for_granted(said: Callable[..., Said], given: list[str]) -> None:
    plain = said("fewshot", *given).out
    assert "taken for granted" not in plain
    skewed = said("fewshot", *given, "--calibrate", "pmi", "--prior", "3,1", "--seeds", "2", "--select", "random").out
    assert "0.75, 0.25" in skewed
    assert skewed.splitlines()[0].endswith(", 1 shots, random, 2 draws, pmi calibration")
    assert plain.splitlines()[0].endswith(", 1 shots, balanced")
    ordered = said("fewshot", *given, "--order", "best").out
    assert ordered.splitlines()[0].endswith(", 1 shots, balanced, order best")
    assert ", 2 draws" in skewed[skewed.index("Rows by their label") :]


def test_a_file_that_cannot_be_written_is_told_before_anything_is_loaded(
    said: Callable[..., Said], given: list[str], tmp_path: Path
) -> None:
    missing = tmp_path / "none" / "scores.jsonl"
    done = said("fewshot", *given, "--scores", missing)
    assert done.code == 2
    assert done.out == ""
    assert f"--scores {missing}: there is no folder" in done.err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("--shots 10", "10 demonstrations are asked for, the training rows are 9"),
        ("--shots 6 --select influence", "the training rows are 5 beside 4 that are held out"),
        ("--shots 9 --order best", "the training rows are 8 beside one on which an order is tried"),
        ("--shots 9 --as lm-eval --eval {train}", "the training rows are 8 beside the question"),
        ("--metric exact", "score.metric is exact, but a row with choices has no answer that is written"),
        ("--eval {odd}", "odd.jsonl line 1: the answer 'odd' is none of the choices"),
        ("--train {odd}", "odd.jsonl line 1: the answer 'odd' is none of the choices"),
        ("--prompt So: --calibrate contextual", "data.prompt cannot be filled with texts that say nothing"),
        ("--prompt So: --calibrate pmi", "data.prompt cannot be filled with texts that say nothing"),
        ("--prompt So: --calibrate channel", "data.prompt has no text to stand behind a label"),
        ("--scores {folder}", "is a folder"),
        ("--scores {train}", "train.jsonl is a file that this run reads"),
        ("--scores {odd}", "odd.jsonl holds something else than an earlier result, and is not written over"),
        ("--on-error mark", "--on-error mark: rows of a file are checked before any is asked"),
        ("--eval - --calibrate batch", "--eval -: calibration looks at all rows"),
        ("--eval - --seeds 2", "--eval -: 2 draws would give 2 answers"),
        ("--eval - --select cluster", "--eval -: select cluster looks at all questions"),
        ("--save {train}/adapter", "train.jsonl/adapter"),
        ("--train -", "data.train -: a pipe is read once, and is kept in a run's folder"),
        ("--eval - --dry-run", "data.eval -: questions from a pipe are answered as they come"),
        ("--eval - --out {folder}/run", "--out: the answers to --eval - go to standard output"),
        ("--resume", "--resume: what has no folder keeps nothing to go on with"),
        ("--eval - --shots 10", "10 demonstrations are asked for, the training rows are 9"),
        ("--model {folder}/none", "none"),
    ],
)
def test_what_needs_no_model_is_told_before_one_is_loaded(
    more: str, told: str, said: Callable[..., Said], given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.backend import load

    monkeypatch.setattr(load, "load_base", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr(Stream, "fileno", lambda _: -1, raising=False)  # nothing is read from it
    odd = write_jsonl(tmp_path / "odd.jsonl", [{"text": "x", "label": "odd"}])
    train = pick(given, "--train")[1]
    added = [part.format(odd=odd, folder=tmp_path, train=train) for part in more.split()]
    kept = but(given, *added)
    done = said("fewshot", *kept, *added)
    assert told in done.complaint()[0]


def test_an_answer_that_the_metric_cannot_see_is_told_before_a_model_is_loaded(
    said: Callable[..., Said], given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.backend import load

    monkeypatch.setattr(load, "load_base", lambda *_, **__: pytest.fail("the model was loaded"))
    done = said("fewshot", *but(given, "--choices"), "--metric", "number")
    assert "score.metric number finds nothing in the answer 'positive'" in done.complaint()[0]


def test_a_fault_of_the_rows_imports_no_torch(
    process: Callable[..., subprocess.CompletedProcess[bytes]], given: list[str]
) -> None:
    done = process("fewshot", *given[:-1], "10", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 4
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert "ctxtune.commands.fewshot" in imported
    assert not imported & {"torch", "transformers"}


def test_calibrations_have_the_same_names_in_fewshot_and_in_eval(
    said: Callable[..., Said], given: list[str], tmp_path: Path
) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": text, "label": "positive"} for text in ("a film", "an epic")])
    kept = ["--save", str(tmp_path / "adapter"), "--scores", str(tmp_path / "items.jsonl"), "--eval", str(rows)]
    first = said("fewshot", *but(given, "--eval"), "--calibrate", "contextual", *kept).out
    device = pick(given, "--device")
    again = said("eval", "--adapter", kept[1], "--eval", rows, *device, "--against", kept[3]).out
    table, _, differences = again.partition("against ")
    for name in ("acc, as it is", "acc, contextual calibration"):
        assert all(name in text for text in (first, table, differences)), name
    (loss,) = [line for line in differences.splitlines() if line.split()[:1] == ["loss"]]
    assert "equal" in loss
    assert "0 / 0" in loss
    assert "acc_" not in again.replace("acc_norm", "").replace("acc_bytes", "")


def test_a_result_is_told_though_its_rows_cannot_be_kept(
    said: Callable[..., Said], given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when all rows have been asked; a run is not complete then."""
    from ctxtune.commands import rows_file
    from ctxtune.errors import StorageError

    def full(path: Path, _: object) -> None:
        raise StorageError(f"no room on the disk for {path}")

    monkeypatch.setattr(rows_file, "write_items", full)
    for kept in (["--scores", tmp_path / "items.jsonl"], ["--out", tmp_path / "run"]):
        done = said("fewshot", *given, *kept, "--json")
        assert done.code == 1
        assert done.json()["scores"]["rows"] == 9
        assert "error: no room on the disk for" in done.err
    assert not (tmp_path / "run" / "result.json").exists()


def test_out_leaves_a_run_that_is_gone_on_with(said: Callable[..., Said], given: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = said("fewshot", *given, "--out", run, "--json").json()
    assert {path.name for path in run.iterdir()} == {".lock", "recipe.yaml", "result.json", "scores.jsonl", "adapter"}
    assert "holds a complete run" in said("fewshot", *given, "--out", run).complaint()[0]
    again = said("fewshot", "--out", run, "--resume", "--json")
    assert again.json() == first
    assert "nothing to resume" in again.err
    (run / "result.json").unlink()
    assert "holds an unfinished run" in said("fewshot", *given, "--out", run).complaint()[0]
    assert said("fewshot", "--out", run, "--resume", "--json").json()["scores"] == first["scores"]
    assert "method.shots is 1, but 2 is asked for" in said("fewshot", *given[:-1], "2", "--out", run, "--resume").err


def test_a_run_keeps_what_came_through_a_pipe(said: Callable[..., Said], given: list[str], tmp_path: Path) -> None:
    rows = Path(pick(given, "--train")[1]).read_bytes()
    whole = said("fewshot", *given, "--json").json()
    piped = said(
        "fewshot", *but(given, "--train"), "--train", "-", "--out", tmp_path / "run", "--json", stdin=rows
    ).json()
    assert piped["scores"] == whole["scores"]
    assert (tmp_path / "run" / "stdin.jsonl").read_bytes() == rows


def test_an_adapter_is_shown_in_words_and_in_narrow_lines(
    said: Callable[..., Said], shown: Path, adapted: Path
) -> None:
    told = said("adapter", "show", shown).out
    lines = told.splitlines()
    assert max(map(len, lines)) < 120
    assert {"settings: shots: 1", "settings: select: balanced", "demonstrations: 1"} <= set(lines)
    assert lines[-3].startswith("1. train.jsonl line ")
    assert [line[:10] for line in lines[-2:]] == ["   Review:", "   Sentime"]
    for one in (told, said("adapter", "show", adapted).out, said("adapter", "show", shown, terminal=True).out):
        assert not re.search(r"\b(None|False|True)\b", one), one
