"""`--nproc 2` of the commands that adapt and score: the numbers are those of one process, files are written once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from ..conftest import CHOICES, PROMPT, losses, review_rows, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TASK = ["--prompt", PROMPT, "--answer", "{{ label }}", "--choices", ",".join(CHOICES), "--device", "cpu"]
STEPS = ["--batch", "5", "--set", "train.steps=6", "--lr", "1e-3"]


@pytest.fixture
def command(model_folders: dict[str, Path], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """command("eval", ...): its exit code, standard output and standard error."""
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    given = {**clean, "CTXTUNE_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def run(name: str, *words: str, model: str = "llama-tied", pipe: str | None = None) -> tuple[int, str, str]:
        line = [sys.executable, "-m", "ctxtune", name, "--model", str(model_folders[model]), *words]
        done = subprocess.run(line, capture_output=True, text=True, env=given, timeout=180, input=pipe)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def told(command: Callable[..., tuple[int, str, str]]) -> Callable[..., dict[str, Any]]:
    """The one JSON object of a command that does not fail."""

    def run(name: str, *words: str, **more: str) -> dict[str, Any]:
        code, out, err = command(name, *words, "--json", **more)
        assert code == 0, err
        facts: dict[str, Any] = json.loads(out)
        return facts

    return run


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value == pytest.approx(theirs[name], abs=1e-4), name


def test_rows_to_score_are_shared_out(told: Callable[..., dict[str, Any]], dev: Path, tmp_path: Path) -> None:
    alone = told("eval", "--eval", str(dev), *TASK, "--save", str(tmp_path / "one.jsonl"))
    both = told("eval", "--eval", str(dev), *TASK, "--save", str(tmp_path / "two.jsonl"), "--nproc", "2")
    same(both["scores"], alone["scores"])
    ours, theirs = ([json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text("utf-8").splitlines()]
                    for name in ("two", "one"))  # fmt: skip
    assert [one["row"] for one in ours] == [one["row"] for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one["said"]["ll"] == pytest.approx(other["said"]["ll"], abs=1e-4)


@pytest.mark.slow
def test_a_running_text_is_shared_out(told: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(row["text"] for row in review_rows(40)), encoding="utf-8")
    words = ("--eval", str(text), "--device", "cpu", "--set", "data.max_length=32")
    same(told("eval", *words, "--nproc", "2")["scores"], told("eval", *words)["scores"])


@pytest.mark.slow
def test_what_is_written_is_shared_out(told: Callable[..., dict[str, Any]], dev: Path) -> None:
    words = ("--eval", str(dev), "--prompt", PROMPT, "--answer", "{{ label }}", "--metric", "f1", "--device", "cpu")
    more = ("--set", "generate.max_tokens=5", "--set", "generate.temperature=1.0")
    same(told("eval", *words, *more, "--nproc", "2")["scores"], told("eval", *words, *more)["scores"])


@pytest.mark.slow
@pytest.mark.parametrize("select", ["balanced", "bm25"])
def test_questions_behind_demonstrations_are_shared_out(
    told: Callable[..., dict[str, Any]], tmp_path: Path, select: str
) -> None:
    short = [{"text": f"{'good' if at % 2 else 'bad'} {at}", "label": CHOICES[at % 2]} for at in range(20)]
    reviews, dev = write_jsonl(tmp_path / "train.jsonl", short[:10]), write_jsonl(tmp_path / "dev.jsonl", short[10:])
    words = (
        "--train",
        str(reviews),
        "--eval",
        str(dev),
        *TASK,
        "--prompt",
        "{{ text }}",
        "--shots",
        "2",
        "--select",
        select,
    )
    alone, both = told("fewshot", *words), told("fewshot", *words, "--nproc", "2", "--out", str(tmp_path / "run"))
    same(both["scores"], alone["scores"])
    assert both["shots"] == alone["shots"]
    assert len((tmp_path / "run" / "scores.jsonl").read_text("utf-8").splitlines()) == 10
    assert (tmp_path / "run" / "result.json").exists()


WAYS: dict[str, tuple[str, ...]] = {
    "freeze": ("--layers", "last:2", "--unfreeze", "gradual", "--cache", "disk"),
    "mask": ("--select", "fisher", "--density", "10%"),
    "prompt": ("--tokens", "4", "--shots", "2"),
}


@pytest.mark.parametrize(
    "method", ["freeze", *(pytest.param(one, marks=pytest.mark.slow) for one in ("mask", "prompt"))]
)
def test_two_processes_adapt_as_one_does(
    told: Callable[..., dict[str, Any]], reviews: Path, dev: Path, tmp_path: Path, method: str
) -> None:
    words = (method, "--train", str(reviews), "--eval", str(dev), *TASK, *STEPS, *WAYS[method])
    alone = told(*words, "--out", str(tmp_path / "one"))
    both = told(*words, "--out", str(tmp_path / "two"), "--nproc", "2")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    same(both["scores"]["after"], alone["scores"]["after"])
    assert both["forgetting"]["after"]["kl"] == pytest.approx(alone["forgetting"]["after"]["kl"], abs=1e-5)
    assert both["adapter"]["bytes"] == pytest.approx(alone["adapter"]["bytes"], abs=64)
    ours, theirs = (next((tmp_path / name / "adapter").glob("*.safetensors")) for name in ("two", "one"))
    for name, value in load_file(ours).items():
        torch.testing.assert_close(value, load_file(theirs)[name], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_rate_is_found_once(told: Callable[..., dict[str, Any]], reviews: Path, tmp_path: Path) -> None:
    words = ("freeze", "--train", str(reviews), *TASK, "--batch", "5", "--set", "train.steps=4", "--layers", "last:1")
    alone = told(*words, "--out", str(tmp_path / "one"))
    both = told(*words, "--out", str(tmp_path / "two"), "--nproc", "2")
    assert both["lr"]["value"] == alone["lr"]["value"]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


def test_a_pipe_is_not_for_several(command: Callable[..., tuple[int, str, str]], dev: Path) -> None:
    code, out, err = command("eval", "--eval", "-", *TASK, "--nproc", "2", pipe=dev.read_text("utf-8"))
    assert code == 2
    assert "pipe" in err
    assert err.count("error:") == 1
    assert not out


@pytest.mark.slow
def test_rows_to_learn_from_may_come_through_a_pipe(
    command: Callable[..., tuple[int, str, str]], reviews: Path, tmp_path: Path
) -> None:
    words = (
        "freeze",
        "--train",
        "-",
        *TASK,
        *STEPS,
        "--layers",
        "last:1",
        "--out",
        str(tmp_path / "run"),
        "--nproc",
        "2",
    )
    code, _, err = command(*words, pipe=write_jsonl(tmp_path / "rows.jsonl", review_rows(22)).read_text("utf-8"))
    assert code == 0, err
    assert len(losses(tmp_path / "run")) == 6
