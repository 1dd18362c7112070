"""`layers: auto` from the recipe to the adapter: what it chose, why, and that it chooses once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.adapter.read import open_adapter
from ctxtune.commands import depth
from ctxtune.commands.adapt import adapt
from ctxtune.commands.dry_run import dry_run
from ctxtune.engine.rate import LADDER
from ctxtune.errors import RecipeError
from ctxtune.recipe.load import load

from ..conftest import (
    Killed,
    Listener,
    adapter_tensors,
    kill_at,
    resolve_recipe,
    review_rows,
    same_tensors,
    write_jsonl,
)  # fmt: skip

if TYPE_CHECKING:
    from pathlib import Path

AUTO = {"method.layers": "auto", "train.lr": 1e-2, "train.steps": 6, "train.save_every": 2}
OPEN = AUTO | {"train.lr": "auto"}


@pytest.fixture(params=["llama-untied", "gpt2-tied", "bert-tied"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "train.jsonl", review_rows(40))


def test_a_whole_run(kind: str, model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    listener = Listener()
    facts = adapt(resolve_recipe(model_folders[kind], train, tmp_path / "run", OPEN), False, listener)
    choice = facts["choice"]
    rows = {row["layers"]: row for row in choice["candidates"]}
    assert list(rows) == ["last:1", "last:2", "last:4"]
    tried = {name: row for name, row in rows.items() if row["loss"] is not None}
    assert choice["layers"] == facts["method"]["layers"]
    assert min(row["worse"] for row in tried.values()) == 0.0
    assert choice["lr"] == facts["lr"]["value"] == tried[choice["layers"]]["lr"]
    assert tried[choice["layers"]]["worse"] <= tried[choice["layers"]]["worse_stderr"]
    assert facts["start_layer"] == 4 - int(choice["layers"][5:])
    assert len(choice["probes"]) == 5
    assert [row["cost"] for row in rows.values()][-1] == rows["last:4"]["gradient"] == 1.0
    assert rows["last:1"]["gradient"] < rows["last:2"]["gradient"] < 1.0
    for name in rows:
        assert any(name in note and "probe at its cut" in note for note in listener.notes)
    assert any(f"{choice['layers']} chosen" in note for note in listener.notes)
    manifest = open_adapter(tmp_path / "run" / "adapter").manifest
    assert manifest is not None
    assert manifest.settings["chosen_from"] == choice
    assert json.loads((tmp_path / "run" / "result.json").read_text())["choice"] == choice


def test_the_resolved_recipe_says_what_was_chosen_and_gives_the_same_numbers(
    model_folders: dict[str, Path], train: Path, tmp_path: Path
) -> None:
    facts = adapt(resolve_recipe(model_folders["llama-tied"], train, tmp_path / "run", OPEN), False, Listener())
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    assert f'layers: "{facts["method"]["layers"]}"  # auto' in text
    again = load(str(tmp_path / "run" / "recipe.yaml"), {"out": str(tmp_path / "again")})
    assert (again.recipe.method.layers, again.recipe.train.lr) == (facts["method"]["layers"], facts["lr"]["value"])
    assert adapt(again, False, Listener())["choice"] is None
    assert same_tensors(adapter_tensors(tmp_path / "again"), adapter_tensors(tmp_path / "run"))


def test_a_resumed_run_does_not_choose_again(
    model_folders: dict[str, Path], train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = adapt(resolve_recipe(model_folders["llama-tied"], train, tmp_path / "straight", OPEN), False, Listener())
    broken = resolve_recipe(model_folders["llama-tied"], train, tmp_path / "broken", OPEN)
    with pytest.raises(Killed):
        adapt(broken, False, Listener(kill_at(3)))
    monkeypatch.setattr(depth, "settle", lambda *_: pytest.fail("the layers were chosen again"))
    facts = adapt(broken, True, Listener())
    assert facts["choice"] == straight["choice"]
    assert facts["lr"] == straight["lr"]
    assert same_tensors(adapter_tensors(tmp_path / "broken"), adapter_tensors(tmp_path / "straight"))
    with pytest.raises(RecipeError, match=r"method.layers is 'last:\d', but 'last:3' is asked for"):
        adapt(resolve_recipe(model_folders["llama-tied"], train, tmp_path / "broken", OPEN | {"method.layers": "last:3"}),
              True, Listener())  # fmt: skip


def test_killed_before_its_recipe_was_written(
    model_folders: dict[str, Path], train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.commands.adapt import _Run

    def die(*_: Any) -> None:
        raise Killed

    resolved = resolve_recipe(model_folders["llama-tied"], train, tmp_path / "run", AUTO)
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_write_recipe", die)
        with pytest.raises(Killed):
            adapt(resolved, False, Listener())
    facts = adapt(resolved, False, Listener())
    assert facts["choice"]["layers"] == facts["method"]["layers"]


def test_choosing_leaves_the_model_and_the_chance_alone(
    model_folders: dict[str, Path], train: Path, tmp_path: Path
) -> None:
    """Layers and rate given as they were chosen: the same numbers, so nothing else has moved."""
    chosen = adapt(resolve_recipe(model_folders["gpt2-untied"], train, tmp_path / "a", AUTO), False, Listener())
    given = AUTO | {"method.layers": chosen["method"]["layers"], "train.lr": chosen["lr"]["value"]}
    adapt(resolve_recipe(model_folders["gpt2-untied"], train, tmp_path / "b", given), False, Listener())
    assert same_tensors(adapter_tensors(tmp_path / "a"), adapter_tensors(tmp_path / "b"))


def test_a_given_rate_is_the_only_one_tried(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    facts = adapt(resolve_recipe(model_folders["llama-tied"], train, tmp_path / "run", AUTO), False, Listener())
    for row in facts["choice"]["candidates"]:
        assert [lr for lr, _ in row["tried"]] in ([1e-2], [])
    assert facts["lr"]["value"] == 1e-2


@pytest.mark.parametrize("more", [{"method.sample": 2, "method.sample_every": 1}, {"method.unfreeze": "gradual"}])
def test_with_layers_that_move_at_times(
    more: dict[str, Any], model_folders: dict[str, Path], train: Path, tmp_path: Path
) -> None:
    facts = adapt(resolve_recipe(model_folders["llama-tied"], train, tmp_path / "run", AUTO | more), False, Listener())
    least = more.get("method.sample", 1)
    assert facts["choice"]["candidates"][0]["layers"] == f"last:{least}"


def test_free_answers(model_folders: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"prompt": row["text"], "answer": row["label"] + " it is"} for row in review_rows(30)]
    train = write_jsonl(tmp_path / "free.jsonl", rows)
    more = AUTO | {"data.prompt": "{{ prompt }}", "data.answer": "{{ answer }}", "data.choices": None}
    flags = {key: value for key, value in more.items() if value is not None}
    resolved = load(None, {
        "model": str(model_folders["llama-tied"]), "data.train": str(train), "method.name": "freeze", "train.batch": 8,
        "device": "cpu", "forget.probe": "none", "cache": "memory", "out": str(tmp_path / "run"), **flags,
    })  # fmt: skip
    assert adapt(resolved, False, Listener())["choice"]["rows"] == 30


def test_the_dry_run_counts_the_most(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    facts = dry_run(resolve_recipe(model_folders["llama-tied"], train, tmp_path / "run", AUTO))
    most = dry_run(resolve_recipe(model_folders["llama-tied"], train, tmp_path / "run", {"method.layers": "last:4"}))
    assert facts["at_most"] == "last:4"
    assert most["at_most"] is None
    assert facts["trainable"] == most["trainable"]


def test_a_quantised_base_wants_its_layers_named(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    resolved = resolve_recipe(model_folders["llama-tied"], train, tmp_path / "run", AUTO | {"quant": "int8"})
    for command in (dry_run, lambda resolved: adapt(resolved, False, Listener())):
        with pytest.raises(RecipeError, match="quant is int8"):
            command(resolved)


def test_a_search_needs_no_more_than_one_row(model_folders: dict[str, Path], tmp_path: Path) -> None:
    for count in (1, 3):
        train = write_jsonl(tmp_path / f"{count}.jsonl", review_rows(count))
        facts = adapt(
            resolve_recipe(model_folders["llama-tied"], train, tmp_path / f"run{count}", AUTO), False, Listener()
        )
        assert facts["choice"]["rows"] == count
        assert torch.tensor(facts["choice"]["probes"]).isfinite().all()


@pytest.mark.parametrize(
    ("losses", "tried", "chosen"),
    [
        ([0.6, 0.2], [1, 4], 4),  # the most layers are best
        ([0.6, 0.62], [1, 4], 4),  # they cannot be told from the best
        ([0.2, 0.6, 0.22], [1, 2, 4], 2),  # they lose, and half of them do not
        ([0.2, 0.6, 0.5], [1, 2, 4], 1),
        ([0.6, 0.9, 0.2], [1, 2, 4], 2),
    ],
)
def test_fewer_layers_are_tried_where_more_lose(
    losses: list[float], tried: list[int], chosen: int, model_folders: dict[str, Path], train: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """From the most down, once the fewest have found a rate; losses of two rows, some noise between them."""
    from ctxtune.engine import rate

    given = iter(losses)

    def find(*_: Any, **__: Any) -> rate.RateTest:
        mean, noise = next(given), 0.05 * len(found)
        found.append(mean)
        return rate.RateTest(1e-2, ((1e-2, mean),), (mean - noise, mean + noise), 1, 0.0)

    found: list[float] = []
    monkeypatch.setattr(rate, "find_rate", find)
    facts = adapt(resolve_recipe(model_folders["llama-tied"], train, tmp_path / "run", AUTO), False, Listener())
    rows = {row["layers"]: row["loss"] for row in facts["choice"]["candidates"]}
    assert [k for k in (1, 2, 4) if rows[f"last:{k}"] is not None] == tried
    assert facts["choice"]["layers"] == f"last:{chosen}"


def test_the_rates_that_are_tried(model_folders: dict[str, Path], train: Path, tmp_path: Path) -> None:
    """The whole ladder with the fewest layers; with more from some rungs below its best rate downwards."""
    facts = adapt(resolve_recipe(model_folders["llama-tied"], train, tmp_path / "run", OPEN), False, Listener())
    few, *_, most = facts["choice"]["candidates"]
    tried = [lr for lr, _ in few["tried"]]
    assert tried == list(LADDER[: len(tried)])
    best = min(few["tried"], key=lambda pair: pair[1])[0]
    assert max(lr for lr, _ in most["tried"]) == LADDER[max(0, LADDER.index(best) - 1)]


@pytest.mark.parametrize("lr", ["auto", 1e-2])
def test_too_few_rows_to_choose_from(lr: str | float, model_folders: dict[str, Path], tmp_path: Path) -> None:
    train, listener = write_jsonl(tmp_path / "few.jsonl", review_rows(7)), Listener()
    more = OPEN | {"train.lr": lr}
    facts = adapt(resolve_recipe(model_folders["llama-tied"], train, tmp_path / "run", more), False, listener)
    told = [note for note in listener.notes if "layers auto" in note or "held-out" in note or "linear reader" in note]
    assert (facts["method"]["layers"], facts["lr"]["value"]) == ("last:4", 1e-4 if lr == "auto" else lr)
    assert told == [
        "layers auto: too few rows to choose from (7, and 8 are the least): last:4 is taken, the deepest that would be "
        f"tried, at rate {facts['lr']['value']:.0e}"
    ]


def test_a_single_label_leaves_the_losses_to_decide(model_folders: dict[str, Path], tmp_path: Path) -> None:
    alike = [{**row, "label": "positive"} for row in review_rows(16)]
    train, listener = write_jsonl(tmp_path / "alike.jsonl", alike), Listener()
    facts = adapt(resolve_recipe(model_folders["llama-tied"], train, tmp_path / "run", OPEN), False, listener)
    assert facts["choice"]["probes"] == []
    assert not any("linear reader" in note or "probe" in note for note in listener.notes)
    assert sum("all answers begin alike" in note for note in listener.notes) == 1
    assert any("chosen, the deepest within one standard error" in note for note in listener.notes)
