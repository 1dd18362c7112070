"""What `prompt --search` prints, and what it refuses before it begins."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from .conftest import command_line, environment, pick

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Said

FILMS = ("film", "joke", "song", "tale", "play", "show", "book", "game", "cast", "plot")
WORDS = (("a fine", "yes"), ("dull", "no"), ("great", "yes"), ("a bad", "no"))


@pytest.fixture
def given(task: list[str], tmp_path: Path) -> list[str]:
    rows = [{"text": f"{word} {film}", "label": label} for film in FILMS for word, label in WORDS]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    more = ["--train", str(path), "--prompt", "{{ text }} =", "--answer", "{{ label }}", "--choices", "no,yes"]
    return ["--search", *pick(task, "--model", "--device"), *more, "--shots", "0", "--candidates", "4"]


def test_what_was_found_is_a_recipe_that_runs(said: Callable[..., Said], given: list[str], tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "found"
    done = said("prompt", *given, "--eval", rows, "--out", out)
    assert done.code == 0
    assert "4 candidates on 16 rows" in done.err
    assert "2 candidates on 20 rows" in done.err
    assert f"recipe: {out / 'recipe.yaml'}: `ctxtune fewshot " in done.err
    assert "rounds on training rows" in done.out
    assert "No better than what you had" in done.out or "Better on rows" in done.out
    assert "acc, 40 eval rows" in done.out
    assert "# search" in (out / "recipe.yaml").read_text() or "own words" in done.out
    facts = json.loads((out / "result.json").read_text())
    again = said("fewshot", out / "recipe.yaml", "--json", "--quiet").json()
    assert again["scores"] == facts["scores"]["best" if facts["better"] else "first"]


def test_one_json_object(said: Callable[..., Said], given: list[str], tmp_path: Path) -> None:
    facts = said(
        "prompt", *given, "--out", tmp_path / "found", "--json", "--init", "text:Yes, or no?", "--quiet"
    ).json()
    assert facts["candidates"] == 4
    assert "Yes, or no?\n\n" in [one["instruction"] for one in facts["rounds"][0]["best"]]
    assert facts["tokens"]["read"] <= facts["tokens"]["whole"]


def test_what_it_would_cost(said: Callable[..., Said], given: list[str], tmp_path: Path) -> None:
    done = said("prompt", *given, "--dry-run", "--out", tmp_path / "found")
    assert done.code == 0
    assert "nothing was asked" in done.out
    assert said("prompt", *given, "--dry-run", "--json").json()["candidates"] == 4
    assert not (tmp_path / "found").exists()
    (tmp_path / "found").touch()
    for more in (["--dry-run"], []):
        done = said("prompt", *given, "--out", tmp_path / "found", *more)
        assert done.complaint()[0] == f"error: {tmp_path / 'found'} is a file, and a run needs a folder"


def test_ctrl_c_leaves_nothing_half_written(given: list[str], tmp_path: Path) -> None:
    more = ["--candidates", "64", "--out", str(tmp_path / "found")]
    command = command_line("prompt", *given, *more)
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path, env=environment(), text=True) as process:
        assert process.stderr is not None
        while "candidates on 16 rows" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("--lr 1e-3", "--lr: --search finds words and trains nothing"),
        ("--epochs 3", "--epochs: --search finds words and trains nothing"),
        ("--batch 3", "--batch: --search finds words and trains nothing"),
        ("--kind input", "--kind: --search finds words and trains nothing"),
        ("--tokens 20", "--tokens: --search finds words and trains nothing"),
        ("--distill-from fewshot", "--distill-from: --search finds words and trains nothing"),
        ("--top 2", "--top: --search finds words and trains nothing"),
        ("--set train.steps=3", "--set train.steps: --search finds words and trains nothing"),
        ("--set method.name=prompt", "--set method.name: --search finds words and trains nothing"),
        ("--resume", "--resume: --search finds words and trains nothing"),
        ("--init vocab", "--init is 'vocab': a search starts from words"),
        ("--init text:", "--init is 'text:': a search starts from words"),
        ("", "out is missing: the recipe that is found needs a place"),
    ],
)
def test_what_is_no_search_is_refused(more: str, told: str, said: Callable[..., Said], given: list[str]) -> None:
    done = said("prompt", *given, *more.split())
    assert done.code == 2
    assert done.complaint()[0].startswith(f"error: {told}")


def test_candidates_of_no_search_are_refused(said: Callable[..., Said]) -> None:
    done = said("prompt", "--candidates", "3")
    assert done.code == 2
    assert done.complaint()[0] == "error: --candidates: nothing is searched"


def test_a_recipe_that_trains_is_no_start(said: Callable[..., Said], tmp_path: Path) -> None:
    done = said("prompt", "prompt", "--search", "--out", tmp_path / "found")
    assert done.code == 2
    assert "method.name is 'prompt'" in done.complaint()[0]
