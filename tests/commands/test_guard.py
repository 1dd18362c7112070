"""A forgetting budget, from the recipe to the result: what it holds, what it costs, what it says, and where it is refused."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from safetensors.torch import load_file

from ctxtune.adapter.mask import DELTA
from ctxtune.commands.adapt import adapt as command
from ctxtune.commands.dry_run import dry_run
from ctxtune.commands.guard import Guarded
from ctxtune.data.hash import sha256_file
from ctxtune.errors import DataError, RecipeError
from ctxtune.objectives import guard as objective
from ctxtune.objectives.guard import AIM
from ctxtune.recipe.gallery import template_folder
from ctxtune.recipe.load import load

from ..conftest import BAD, GOOD, Killed, Listener, kill_at
from ..test_laws import assert_same_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Adapt = Callable[..., dict[str, Any]]
    Resolve = Callable[..., Any]

MASK: dict[str, Any] = {
    "method.name": "mask", "method.select": "random", "method.layers": "all", "method.density": 0.2, "train.lr": 3e-2,
}  # fmt: skip
PROMPT: dict[str, Any] = {"method.layers": None, "method.name": "prompt", "method.init": "vocab", "method.tokens": 3}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "freeze": ("llama-tied", {"method.layers": "last:2", "train.lr": 1e-2}),
    "freeze by cloze": ("bert-tied", {"method.layers": "last:1", "train.lr": 1e-2}),
    "freeze head": ("gpt2-untied", {"method.layers": "head", "train.lr": 1e-2}),
    "mask": ("llama-untied", MASK),
    "mask by gates": ("llama-tied", {**MASK, "method.select": "l0"}),
    "bits": ("gpt2-tied", {"method.name": "mask", "method.learn": "bits", "method.layers": "last:2", "train.lr": 1e-3}),
    "prefix": ("llama-tied", {**PROMPT, "method.top": 2, "train.lr": 3e-2}),
    "input": ("gpt2-tied", {**PROMPT, "method.kind": "input", "train.lr": 1e-1}),
}


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    path = tmp_path / "probe.txt"
    path.write_text(" ".join(f"{good}, and then {bad}." for good in GOOD for bad in BAD))
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text to hold the budget on."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"Once more: {bad}; they said, {good}! Was it {bad}?" for good in GOOD for bad in BAD))
    return path


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_holds(method: str, adapt: Adapt, probe: Path, text: Path) -> None:
    kind, more = METHODS[method]
    more = {"forget.probe": str(probe), "train.steps": 30, "train.schedule": "constant", **more}
    free = adapt(kind, "free", more)["forgetting"]["after"]["kl"]
    budget = free / 4
    held = adapt(kind, "held", {**more, "forget.budget": budget, "forget.text": str(text)})
    guard = held["guard"]
    if (before := held["start"]) is not None:  # a prompt forgets by standing there: more than that budget
        assert before["forgetting"]["kl"] > budget
        assert guard["probe_kl"] < 0.75 * free
    else:
        assert guard["probe_kl"] < free / 2
        assert guard["kl"] <= budget
    assert guard["probe_kl"] == held["forgetting"]["after"]["kl"]
    assert guard["kept"] == (guard["probe_kl"] <= budget)
    assert guard["budget"] == budget
    assert guard["tokens_a_step"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_before_the_first_step_nothing_is_forgotten(
    method: str, adapt: Adapt, probe: Path, text: Path, tmp_path: Path
) -> None:
    """But what a prompt has done by standing there: it is compared with the base alone."""
    kind, more = METHODS[method]
    adapt(kind, more={"forget.probe": str(probe), "forget.budget": 0.1, "forget.text": str(text), **more})
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["guard_weight"] == 0.0
    if method in ("prefix", "input"):
        assert first["guard_kl"] > 1e-3
    else:
        assert first["guard_kl"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("method", ["freeze", "mask", "prefix"])
def test_law_6_beside_a_guard(method: str, adapt: Adapt, dev: Path, probe: Path, text: Path, tmp_path: Path) -> None:
    kind, more = METHODS[method]
    more = {"forget.probe": str(probe), "forget.budget": 0.01, "forget.text": str(text), "data.eval": str(dev), **more}
    more |= {"train.steps": 6, "train.save_every": 2, "train.eval_every": 2}
    straight = adapt(kind, "straight", more)
    for step in (1, 4, 5):
        with pytest.raises(Killed):
            adapt(kind, "broken", more, resume=True, at=kill_at(step))
    done = adapt(kind, "broken", more, resume=True)
    assert_same_run(tmp_path / "broken", tmp_path / "straight")
    assert done["guard"] == straight["guard"]
    assert straight["guard"]["weight"] > 0


def test_what_is_kept_changes_nothing(adapt: Adapt, probe: Path, text: Path, tmp_path: Path) -> None:
    """States below the lowest layer that moves are kept of the guard's text as well."""
    kind, more = METHODS["freeze"]
    more = {"forget.probe": str(probe), "forget.budget": 0.01, "forget.text": str(text), **more}
    kls = []
    for cache in ("memory", "off"):
        adapt(kind, cache, {**more, "cache": cache})
        lines = (tmp_path / cache / "metrics.jsonl").read_text().splitlines()
        kls.append([json.loads(line)["guard_kl"] for line in lines])
    assert kls[0] == pytest.approx(kls[1], rel=1e-3, abs=1e-6)


def test_a_last_step_above_the_budget_is_taken_back(
    adapt: Adapt, probe: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that pulls with no weight: the same numbers, and then a part of each."""
    monkeypatch.setattr(objective, "RATE", 0.0)
    monkeypatch.setattr(objective, "HASTE", 0.0)
    kind, more = METHODS["mask"]
    more = {"forget.probe": str(probe), **more}
    free = adapt(kind, "free", more)
    budget = free["forgetting"]["after"]["kl"] / 5
    held = adapt(kind, "held", {**more, "forget.budget": budget, "forget.text": str(text)})
    share = held["guard"]["share"]
    assert 0.2 < share < 0.9
    assert 0.4 * budget < held["guard"]["kl"] <= budget
    assert held["forgetting"]["after"]["kl"] < free["forgetting"]["after"]["kl"] / 2
    whole, part = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("free", "held"))
    for name in [name for name in whole if name.endswith(DELTA)]:
        torch.testing.assert_close(part[name].float(), share * whole[name].float(), rtol=0.02, atol=0)


def test_the_dry_run_foresees_what_a_step_reads(resolve: Resolve, reviews: Path, text: Path) -> None:
    for number, more in enumerate(({}, {"forget.text": str(text)}, {"train.batch": 22})):
        given = {"forget.probe": "builtin", "forget.budget": 0.05, "train.steps": 1, **more}
        foreseen = dry_run(resolve("llama-tied", reviews, f"run {number}", given))["guard_tokens"]
        done = command(resolve("llama-tied", reviews, f"run {number}", given), False, Listener())
        assert foreseen == done["guard"]["tokens_a_step"] >= 40
    assert "guard_tokens" not in dry_run(resolve("llama-tied", reviews))


class Curve(Guarded):
    """What KL would be at a share of the way, as a function."""

    def __init__(self, kl: Callable[[float], float], budget: float) -> None:
        guard = SimpleNamespace(budget=budget, aim=AIM * budget)
        super().__init__(cast("Any", guard), cast("Any", None), cast("Any", None), 0, {})
        self.__dict__["curve"], self.__dict__["way"] = kl, torch.nn.Parameter(torch.ones(2), requires_grad=False)

    def kl(self) -> float:
        return float(self.__dict__["curve"](float(self.__dict__["way"][0])))

    def back(self) -> tuple[float, float, float]:
        """Where it ends: the share, the KL, and where the numbers are."""
        way = self.__dict__["way"]
        method = cast("Any", SimpleNamespace(params={"way": way}, finish=lambda: False))
        return *self.step_back(method, lambda _: None), float(way[0])


@pytest.mark.parametrize("budget", [20.0, 0.5, 0.05, 0.005, 1e-4])
@pytest.mark.parametrize("size", [0.1, 8.0])
def test_what_begins_at_the_base_ends_within(size: float, budget: float) -> None:
    share, kl, way = Curve(lambda share: size * share**2, budget).back()
    assert kl == pytest.approx(size * share**2, rel=1e-5)
    assert way == pytest.approx(share)
    assert kl <= budget
    assert share == 1 or 3 * size * share**2 >= budget  # not much further back than it must be


def test_where_no_share_is_within_the_lowest_is_taken() -> None:
    share, kl, way = Curve(lambda share: 0.3 + (share - 0.5) ** 2, 0.1).back()
    assert (share, way) == pytest.approx((0.5, 0.5), abs=0.15)
    assert 0.3 <= kl < 0.33


def test_what_is_no_number_is_not_within() -> None:
    share, kl, way = Curve(lambda share: math.nan if share > 0.3 else share**2, 0.05).back()
    assert kl == pytest.approx(way**2, rel=1e-5)
    assert share == pytest.approx(way)
    assert kl <= 0.05


def test_a_budget_that_was_not_kept(resolve: Resolve, reviews: Path, probe: Path) -> None:
    voice = Listener()
    more = {**PROMPT, "forget.probe": str(probe), "forget.budget": 1e-4, "train.lr": 3e-2}
    guard = command(resolve("llama-tied", reviews, more=more), False, voice)["guard"]
    assert not guard["kept"]
    told = [note for note in voice.notes if "was not kept" in note]
    assert told == [
        f"forget.budget 0.0001 was not kept: KL(base || tuned) is {guard['probe_kl']:.4f} nats a token on the probe, "
        f"{guard['kl']:.4f} on the text that it was trained on; take more steps, or a smaller --lr"
    ]


def test_the_step_that_is_kept_is_within_the_budget(adapt: Adapt, dev: Path, probe: Path, tmp_path: Path) -> None:
    """The loss falls on, the KL of the guard's text rises above the budget."""
    more = {"forget.probe": str(probe), "data.eval": str(dev), "train.eval_every": 1, "train.lr": 2e-2}
    more |= {"train.steps": 6, "forget.budget": 0.02}
    done = adapt(more=more)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = {one["step"]: (one["eval_guard_kl"], one["eval_loss"]) for one in records if "eval_loss" in one}
    within = {step: loss for step, (kl, loss) in told.items() if kl <= 0.02}
    assert 0 < len(within) < len(told)
    assert done["best_step"] == min(within, key=within.__getitem__)
    assert done["guard"]["kl"] == pytest.approx(told[done["best_step"]][0], rel=1e-4)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "zero": ({"forget.budget": 0.0}, "forget.budget is 0.0, allowed: .*above 0"),
    "negative": ({"forget.budget": -0.05}, "forget.budget is -0.05"),
    "nan": ({"forget.budget": float("nan")}, "forget.budget is nan"),
    "infinite": ({"forget.budget": float("inf")}, "forget.budget is inf"),
    "a word": ({"forget.budget": "little"}, "forget.budget is 'little'"),
    "no probe": ({"forget.budget": 0.05, "forget.probe": "none"}, "probe none measures nothing"),
    "the probe": ({"forget.budget": 0.05, "forget.text": "a.txt", "forget.probe": "a.txt"}, "is the probe itself"),
}


@pytest.mark.parametrize(("more", "said"), WRONG.values(), ids=WRONG)
def test_a_budget_that_is_none(more: dict[str, Any], said: str, resolve: Resolve, reviews: Path) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        resolve("llama-tied", reviews, more={"forget.probe": "builtin", **more})
    assert "\n" not in str(caught.value)


def test_a_text_that_nothing_reads(resolve: Resolve, reviews: Path) -> None:
    """Is said, and no error: what a run does that reads it can be compared with one that does not."""
    dry_run(resolve("llama-tied", reviews, more={"forget.text": "text.txt"}), (said := []).append)
    assert "forget.text" in said[-1]
    assert "is not used: there is no budget, no method.ewc and no method.select contrast" in said[-1]


def test_the_option_is_named(resolve: Resolve, reviews: Path) -> None:
    with pytest.raises(RecipeError, match=r"--forget-budget: forget.budget is -1"):
        resolve("llama-tied", reviews, more={"forget.budget": -1.0})


OTHER = {"inputs": {"guard": "0" * 64}}
REFUSED: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    "suffix": ("llama-tied", {**PROMPT, "method.kind": "suffix"}, RecipeError, "stays as it was"),
    "classifier": ("bert-headless", {}, RecipeError, "predicts nothing to compare"),
    "no file": ("llama-tied", {"forget.text": "nowhere.txt"}, DataError, "forget.text"),
    "an empty file": ("llama-tied", {"forget.text": "empty.txt"}, DataError, "is empty"),
    "one token": ("llama-tied", {"forget.text": "short.txt"}, DataError, "leaves nothing to predict"),
    "the probe by another name": ("llama-tied", {"forget.text": "copy.txt"}, RecipeError, "is the probe itself"),
    "another text than it was": ("llama-tied", {"forget.text": "probe.txt", **OTHER}, DataError, "changed"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_where_there_is_nothing_to_hold(
    name: str, resolve: Resolve, reviews: Path, probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the run and by the dry run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "short.txt").write_text("a")
    (tmp_path / "copy.txt").write_bytes((template_folder() / "data" / "probe.txt").read_bytes())
    kind, more, error, said = REFUSED[name]
    resolved = resolve(kind, reviews, more={"forget.probe": "builtin", "forget.budget": 0.05, **more})
    for run in (lambda: dry_run(resolved), lambda: command(resolved, False, Listener())):
        with pytest.raises(error, match=said) as caught:
            run()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_text_of_ones_own_is_an_input(adapt: Adapt, probe: Path, text: Path, tmp_path: Path) -> None:
    adapt(more={"forget.probe": str(probe), "forget.budget": 0.05, "forget.text": str(text), "train.steps": 1})
    recipe = load(str(tmp_path / "run" / "recipe.yaml"), {}).recipe
    assert recipe.forget.text == str(text)
    assert recipe.inputs["guard"] == sha256_file(text)
