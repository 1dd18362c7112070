"""`lr: transfer`: what a narrow model finds, that it is the same again, and what a run keeps of it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.backend.newborn import make_model, matrices
from ctxtune.commands import narrow as module
from ctxtune.commands.narrow import narrow
from ctxtune.commands.pretrain import dry_run, pretrain
from ctxtune.errors import RecipeError
from ctxtune.methods.pretrain import RATES, shares_of
from ctxtune.recipe.load import load
from ctxtune.recipe.pretrain import Pretrain

from ..conftest import Killed, Listener, kill_at
from .test_pretrain import LINES, recipe, same, weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.engine.loop import StepFacts
    from ctxtune.recipe.load import Resolved


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(LINES), encoding="utf-8")
    return path


def asked(text: Path, out: Path, **more: Any) -> Resolved:
    return recipe(text, out, **{"method__width": 96, "train__lr": "transfer", **more})


def run(
    text: Path, out: Path, resume: bool = False, at: Callable[[StepFacts], None] = lambda facts: None, **more: Any
) -> dict[str, Any]:
    return pretrain(asked(text, out, **more), resume, Listener(at))


def settings(**more: Any) -> Pretrain:
    return Pretrain(name="pretrain", **more)


@pytest.mark.parametrize(
    ("wide", "shape"),
    [
        ({"depth": 8}, (64, 2, 168)),
        ({"depth": 2, "width": 256, "heads": 4}, (64, 1, 168)),  # heads of 64
        ({"depth": 2, "width": 512, "heads": 4}, (128, 1, 336)),  # heads of 128: one is the least
        ({"depth": 2, "width": 256, "feed_forward": 512}, (64, 2, 128)),
        ({"depth": 1}, (32, 1, 80)),  # no narrower than it is
        ({"depth": 8, "arch": "gpt2"}, (64, 2, 256)),
    ],
)
def test_the_narrow_model_has_heads_as_large(wide: dict[str, Any], shape: tuple[int, int, int]) -> None:
    found = narrow(settings(**wide))
    assert (found.states, found.attention_heads, found.inner) == shape
    assert (found.depth, found.compile) == (settings(**wide).depth, "off")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_its_shares_are_those_of_its_width(optimizer: str) -> None:
    found = narrow(settings(depth=1, width=256, row=32))
    model, anatomy = make_model(found, 300, 0, 0)
    params, turned = dict(model.named_parameters()), frozenset(matrices(model, anatomy))
    shares = shares_of(params, turned, anatomy, found, optimizer)
    own = 2**0.5 if optimizer == "muon" else 2.0
    assert shares["model.layers.0.mlp.up_proj.weight"] == pytest.approx(own)
    assert shares["lm_head.weight"] == 2.0
    assert shares["model.embed_tokens.weight"] == (4.0 if optimizer == "muon" else 1.0)


def test_the_best_rate_of_the_narrow_model_is_taken(text: Path, tmp_path: Path) -> None:
    listener = Listener()
    facts = pretrain(asked(text, tmp_path / "run", train__steps=20), False, listener)
    table = facts["transfer"]
    assert (table["width"], table["steps"]) == (64, 20)
    assert [lr for lr, _ in table["tried"]] == [RATES["muon"] * times for times in (0.25, 0.5, 1, 2, 4)]
    assert facts["lr"] == table["lr"] == min(table["tried"], key=lambda one: one[1])[0]
    # A run of the narrow model itself at one of the rates says the same.
    lr, loss = table["tried"][1]
    alone = run(text, tmp_path / "narrow", train__steps=20, train__lr=lr, method__width=64, train__eval_every=20)
    assert alone["scores"]["after"]["loss"] == pytest.approx(loss, abs=1e-6)
    assert sum("held-out loss" in one for one in listener.notes) == 5
    kept = (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")
    assert f"lr: {facts['lr']}  # auto" in kept


def test_what_was_found_is_not_sought_again(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"train__steps": 8, "train__save_every": 2}
    whole = run(text, tmp_path / "whole", **more)
    with pytest.raises(Killed):
        run(text, tmp_path / "killed", at=kill_at(5), **more)
    monkeypatch.setattr(module, "_loss", None)
    again = run(text, tmp_path / "killed", resume=True, **more)
    assert {**again["transfer"], "seconds": 0} == {**whole["transfer"], "seconds": 0}
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    with pytest.raises(RecipeError, match=r"train\.lr is .*, but 'auto' is asked for"):
        run(text, tmp_path / "killed", resume=True, train__lr="auto", **more)


def test_the_recipe_of_the_run_gives_the_same_model(text: Path, tmp_path: Path) -> None:
    run(text, tmp_path / "one")
    pretrain(load(str(tmp_path / "one" / "recipe.yaml"), {"out": str(tmp_path / "two")}), False, Listener())
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.parametrize(("losses", "end", "best"), [
    ([1.0, 2.0, 3.0, 4.0, 5.0], "lowest", 0), ([5.0, 4.0, 3.0, math.nan, 2.0], "highest", 4),
    ([5.0, 4.0, 3.0, math.nan, math.inf], None, 2),
])  # fmt: skip
def test_a_best_at_an_end_is_told(
    losses: list[float], end: str | None, best: int, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, listener = iter(losses), Listener()
    monkeypatch.setattr(module, "_loss", lambda *_: next(waiting))
    facts = pretrain(asked(text, tmp_path / "run"), False, listener)
    assert facts["transfer"]["end"] == end
    assert facts["lr"] == facts["transfer"]["tried"][best][0]
    assert any(f"the best is the {end} tried" in one for one in listener.notes) == (end is not None)
    assert json.loads((tmp_path / "run" / "choice.json").read_text("utf-8")) == facts["transfer"]


def test_a_dry_run_says_what_is_tried(text: Path, tmp_path: Path) -> None:
    foreseen = dry_run(asked(text, tmp_path / "run"), Listener())
    facts = run(text, tmp_path / "run")
    assert foreseen["lr"] is None
    assert foreseen["transfer"] == {
        "width": facts["transfer"]["width"], "steps": 6, "rates": [lr for lr, _ in facts["transfer"]["tried"]],
    }  # fmt: skip


def test_other_methods_have_no_narrow_model() -> None:
    with pytest.raises(RecipeError, match="lr transfer is from a narrow model to a wide one"):
        load(None, {"method.name": "freeze", "model": "m", "data.train": "rows.jsonl", "train.lr": "transfer"})
