"""How deep a model is of which only the minutes are said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.commands import deeper
from ctxtune.commands.deeper import depth_for, is_open
from ctxtune.commands.pretrain import dry_run, pretrain
from ctxtune.commands.pupil import Pupil
from ctxtune.errors import RecipeError
from ctxtune.recipe.load import load
from ctxtune.recipe.pretrain import Pretrain

from ..conftest import Killed, Listener, kill_at

if TYPE_CHECKING:
    from pathlib import Path

OPEN: dict[str, Any] = {"method.name": "pretrain", "data.train": "text.txt", "method.minutes": 10}


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, True),
        ({"method.arch": "qwen3", "method.vocabulary": 300}, True),
        ({"method.minutes": None}, False),
        ({"train.steps": 100}, False),
        ({"method.depth": 4}, False),
        ({"method.params": "3M"}, False),
        ({"method.width": 128}, False),
    ],
)
def test_sizes_that_are_said_stay(more: dict[str, Any], wanted: bool) -> None:
    assert is_open(load(None, {**OPEN, **more})) is wanted


@pytest.mark.parametrize(("epochs", "depth"), [(0.1, 4), (3.0, 4), (4.1, 4), (4.3, 5), (7.6, 5), (7.9, 6), (1e9, 16)])
def test_as_many_layers_as_leave_about_three_passes(epochs: float, depth: int) -> None:
    """Of a model that computes as many FLOP as the cube of its layers. 4.2 passes of four layers are 3 x 1.4, and of five
    3 / 1.4: 4.2 = 3 (5 / 4)^(3/2)."""
    settings = Pretrain(name="pretrain")
    assert depth_for(epochs, settings, lambda one: one.depth**3) == depth


def test_a_run_keeps_what_it_came_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pupil, "pace", lambda self: 1.0)
    monkeypatch.setattr(deeper, "MOST", 5)
    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("the cat ate a fish on every day of it\n" * 200, encoding="utf-8")
    flags = {
        **OPEN, "data.train": str(text), "method.vocabulary": 300, "method.row": 16, "train.batch": 2, "out": str(out),
        "train.save_every": 1, "method.minutes": 200, "method.compile": "off", "device": "cpu",
    }  # fmt: skip
    told = dry_run(load(None, {**flags, "out": str(tmp_path / "other")}), Listener())
    assert told["deepens"]
    assert told["method"]["depth"] == 4
    with pytest.raises(Killed):
        pretrain(load(None, flags), False, Listener(kill_at(1)))
    kept = load(str(out / "recipe.yaml"), {}).recipe
    assert isinstance(kept.method, Pretrain)
    assert (kept.method.depth, kept.train.steps) == (5, 12_000)
    with pytest.raises(Killed):
        pretrain(load(None, flags), True, Listener(kill_at(3)))
    assert (out / "recipe.yaml").read_text("utf-8").count("depth: 5") == 1
    with pytest.raises(RecipeError, match=r"method\.depth is 5, but 4 is asked for"):
        pretrain(load(None, {**flags, "method.depth": 4}), True, Listener())
