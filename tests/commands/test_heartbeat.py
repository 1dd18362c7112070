"""Nobody looks at a silent terminal for long: a part is named as it begins, and again until it ends."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from ctxtune.commands import heartbeat as module
from ctxtune.commands.adapt import adapt
from ctxtune.commands.evaluate import evaluate
from ctxtune.commands.heartbeat import heartbeat

from ..conftest import CHOICES, PROMPT, Listener, resolve_recipe, review_rows, write_jsonl

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.05)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("at_once", [True, False])
def test_a_long_part_is_told_until_it_ends(at_once: bool) -> None:
    said: list[str] = []
    with heartbeat(said.append, "at work", at_once):
        assert said == ["at work"] * at_once
        time.sleep(0.4)
    told = len(said)
    assert told >= 2
    assert all(re.fullmatch(r"at work: \d+ s so far", line) for line in said[at_once:])
    time.sleep(0.12)
    assert len(said) == told


def test_a_short_part_and_one_that_nobody_listens_to() -> None:
    said: list[str] = []
    with heartbeat(said.append, "at work", at_once=False), heartbeat(None, "alone"):
        pass
    assert said == []


def test_a_run_and_an_evaluation_name_their_parts(model_folders: dict[str, Path], tmp_path: Path) -> None:
    train, dev = (write_jsonl(tmp_path / name, review_rows(n)) for name, n in (("train.jsonl", 8), ("dev.jsonl", 6)))
    more = {"data.eval": str(dev), "train.steps": 2, "train.eval_every": 1, "forget.probe": "builtin"}
    listener = Listener()
    model = model_folders["llama-tied"]
    adapt(resolve_recipe(model, train, tmp_path / "run", more), False, listener)
    parts = [note for note in listener.notes if note.startswith(("scoring", "measuring", "reading", "running"))]
    assert parts == [
        "running the 3 frozen layers once over 8 examples",
        "reading the probe that forgetting is measured on",
        "scoring 6 rows before training",
        "measuring forgetting after training",
    ]  # fmt: skip
    said: list[str] = []
    given = {"model": str(model), "data.eval": str(dev), "data.prompt": PROMPT, "data.answer": "{{ label }}"}
    evaluate(None, {**given, "data.choices": CHOICES}, [], None, False, said.append)
    assert [said[0], said[-1]] == [f"loading {model}", "scoring 6 rows"]
