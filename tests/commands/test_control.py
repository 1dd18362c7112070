"""A random mask beside a chosen one: it is what a run of its own would be, nothing is computed twice, what is said of it."""

from __future__ import annotations

import io
import json
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from ctxtune.adapter.mask import read_mask
from ctxtune.adapter.read import open_adapter
from ctxtune.backend.mask import Part, numel
from ctxtune.backend.skeleton import skeleton
from ctxtune.cli.freeze import _cost_table, result_table
from ctxtune.cli.voice import Voice
from ctxtune.commands import control as command
from ctxtune.commands import judge
from ctxtune.commands.choose_only import choose_only
from ctxtune.commands.dry_run import dry_run
from ctxtune.engine.loop import StepFacts
from ctxtune.errors import RecipeError
from ctxtune.evals.items import Item
from ctxtune.evals.paired import compare
from ctxtune.methods.control import alike
from ctxtune.recipe.mask import Mask

from ..conftest import (
    CHOICES,
    GOOD,
    Killed,
    adapter_tensors,
    kill_at,
    review_rows,
    same_tensors,
    write_jsonl,
)  # fmt: skip
from ..test_laws import assert_same_run, log_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Adapt = Callable[..., dict[str, Any]]
    Resolve = Callable[..., Any]

RATE = 3e-2
MASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "fisher": ("llama-tied", {"select": "fisher", "layers": "last:2", "density": 0.2, "score_batches": 2}),
    "grad": (
        "gpt2-tied",
        {"select": "grad", "shape": "entries", "density": 0.05, "score_batches": 1, "regrow_every": 2, "stored": "float32"},
    ),
    "magnitude": ("llama-untied", {"select": "magnitude", "shape": "rows", "density": 0.2, "ewc": 1e-3, "l1": 1e-4}),
    "guarded": ("llama-tied", {"select": "fisher", "shape": "rows", "density": 0.2, "score_batches": 2}),
    "l0": ("llama-tied", {"select": "l0", "density": 0.1, "decide": 0.5}),
    "classifier": ("bert-headless", {"select": "magnitude", "layers": "last:1", "density": 0.2}),
}  # fmt: skip


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    path = tmp_path / "probe.txt"
    path.write_text(". ".join(GOOD) + ".")
    return path


@pytest.fixture
def more(dev: Path, probe: Path) -> Callable[..., dict[str, Any]]:
    """more(mask, key=value, ...): flags of a short run."""

    def more(mask: str, **settings: Any) -> dict[str, Any]:
        kind, method = MASKS[mask]
        where = {"forget.probe": str(probe)} if kind != "bert-headless" else {}
        where |= {"forget.budget": 0.002} if mask == "guarded" else {}
        return {
            "method.name": "mask", "method.layers": None, "data.eval": str(dev), "train.lr": RATE, "train.steps": 6,
            "train.eval_every": 2, **where, **{f"method.{key}": value for key, value in {**method, **settings}.items()},
        }  # fmt: skip

    return more


@pytest.mark.parametrize("mask", MASKS)
def test_it_is_what_a_run_of_its_own_would_be(mask: str, adapt: Adapt, more: Any, tmp_path: Path) -> None:
    """To the last bit; and the chosen one is what it is without."""
    kind = MASKS[mask][0]
    both = adapt(kind, "both", more(mask, control=True))
    alone = adapt(kind, "alone", more(mask))
    file = open_adapter(tmp_path / "alone" / "adapter")
    chosen = read_mask(file.path, file.header)
    budget = numel({name: part for name, part in chosen.items() if part.kind != "whole"})
    size = {"budget": budget} if mask != "l0" else {}  # of gates the density says it
    random = adapt(kind, "random", more(mask, select="random", **size))
    assert same_tensors(adapter_tensors(tmp_path / "both"), adapter_tensors(tmp_path / "alone"))
    for key in ("scores", "forgetting", "trainable", "steps", "best_step", "penalty"):
        assert both[key] == alone[key], key
    control = both["control"]
    assert control["scores"] == random["scores"]["after"]
    assert control["forgetting"] == random["forgetting"]["after"]
    assert control["scores"] != both["scores"]["after"]
    for key in ("trainable", "steps", "best_step", "stopped_early", "penalty"):
        assert control[key] == random[key], key
    assert control["trainable"] == pytest.approx(both["trainable"], rel=0.03)
    if "guard" in random:
        assert control["guard"] == random["guard"]
        assert min(control["guard"]["share"], both["guard"]["share"]) < 1  # a budget so low that it is gone back from
    for name, one in control["differences"].items():
        if name != "task_kl":
            assert one["difference"] == pytest.approx(both["scores"]["after"][name] - control["scores"][name], abs=1e-9)
    if "task_kl" in control["forgetting"]:
        gap = both["forgetting"]["after"]["task_kl"] - control["forgetting"]["task_kl"]
        assert control["differences"]["task_kl"]["difference"] == pytest.approx(gap, abs=1e-9)


def test_the_best_step_need_not_be_the_last(adapt: Adapt, more: Any, tmp_path: Path) -> None:
    """Of changes kept in full the best scores are known; the rows are those of the same step all the same."""
    turned = [{**row, "label": CHOICES[1 - CHOICES.index(row["label"])]} for row in review_rows(10, 30)]
    dev = write_jsonl(tmp_path / "turned.jsonl", turned)
    flags = {"data.eval": str(dev), "train.lr": 0.1, "train.steps": 24, "train.schedule": "constant"}
    found = adapt("gpt2-tied", "run", more("grad", control=True) | flags)
    assert found["best_step"] < found["steps"]
    one = found["control"]["differences"]["loss"]
    assert one["other"] + one["difference"] == pytest.approx(found["scores"]["after"]["loss"], abs=1e-9)
    assert one["other"] == pytest.approx(found["control"]["scores"]["loss"], abs=1e-9)


def test_nothing_is_computed_twice(adapt: Adapt, more: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen layers, what the base says of the rows and of the probe, tokens, the rate: as without."""
    from ctxtune.backend.feed import Feed
    from ctxtune.commands import prepare
    from ctxtune.engine import rate
    from ctxtune.evals.choice import Requests

    counts: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        own = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return own(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    for owner, name in (
        (Feed, "_fill"), (Feed, "keep"), (judge, "kept_base"), (judge, "unmoved"), (Requests, "kept_scores"),
        (prepare, "to_score"), (prepare, "to_learn"), (rate, "find_rate"),
    ):  # fmt: skip
        count(owner, name)
    flags = {"train.lr": "auto", "cache": "memory"}
    adapt("llama-tied", "alone", more("fisher") | flags)
    alone = dict(counts)
    counts.clear()
    facts = adapt("llama-tied", "both", more("fisher", control=True) | flags)
    assert counts == alone
    assert min(alone.values()) > 0
    assert len(alone) == 8
    assert facts["control"]["steps"] == facts["steps"]


@pytest.mark.parametrize("mask", ["fisher", "grad"])
def test_killed_and_resumed(mask: str, adapt: Adapt, more: Any, tmp_path: Path) -> None:
    """While the chosen one is trained, and while the random one is; and all the same to the last bit."""
    kind, flags = MASKS[mask][0], more(mask, control=True) | {"train.save_every": 2}
    adapt(kind, "straight", flags)
    for stop in (kill_at(5), in_loop(2, 1), in_loop(1, 4), in_loop(1, 5)):
        with pytest.raises(Killed):
            adapt(kind, "broken", flags, True, stop)
    (tmp_path / "broken" / "control" / ".best.safetensors.1.tmp").write_text("half of it")
    adapt(kind, "broken", flags, True)
    assert not list((tmp_path / "broken" / "control").glob(".*.tmp"))
    assert_same_run(tmp_path / "broken", tmp_path / "straight")
    broken, straight = (tmp_path / run / "control" for run in ("broken", "straight"))
    assert log_of(broken) == log_of(straight)
    assert untimed(tmp_path / "broken") == untimed(tmp_path / "straight")


def in_loop(number: int, step: int) -> Callable[[Any], None]:
    """Ends a process when a step of its first or second loop has been done."""
    seen: list[int] = []

    def at(facts: Any) -> None:
        seen.append(facts.step)
        loop = 1 + sum(later < earlier for earlier, later in pairwise(seen))
        if (loop, facts.step) == (number, step):
            raise Killed

    return at


def untimed(run: Path) -> dict[str, Any]:
    """What a result says of the random mask, but for the seconds."""
    facts = json.loads((run / "result.json").read_text(encoding="utf-8"))["control"]
    return {key: value for key, value in facts.items() if key not in ("loop_seconds", "tokens_per_second")}


def rows(accs: list[float], losses: list[float] | None = None) -> list[Item]:
    found = []
    for number, acc in enumerate(accs):
        loss = {"loss": losses[number]} if losses is not None else {}
        found.append(Item(str(number), number + 1, {**({"acc": acc} if acc >= 0 else {}), **loss}))
    return found


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([1.0] * 40, [0.0] * 20 + [1.0] * 20, "better than"),
        ([0.0] * 20 + [1.0] * 20, [1.0] * 40, "worse than"),
        ([1.0] * 40, [0.0] * 3 + [1.0] * 37, "not shown to be better than"),
        ([1.0] * 4, [0.0] * 4, "not shown to be better than"),  # four rows are no proof, whatever the interval
    ],
)
def test_the_verdict(ours: list[float], theirs: list[float], said: str) -> None:
    found = command.verdict(compare(rows(ours), rows(theirs), "r"), {"kl": 0.5}, {"kl": 0.2})
    assert found.startswith(f"{said} a random mask of the same size: acc ")
    assert f"acc {sum(ours) / len(ours):.4f} against {sum(theirs) / len(theirs):.4f} (" in found
    assert found.endswith("; it forgets more, KL(base || tuned) 0.5 against 0.2 nats a token")
    less = command.verdict(compare(rows(ours), rows(theirs), "r"), {"kl": 0.1}, {"kl": 0.2})
    assert "it forgets less, " in less


def test_a_lower_loss_is_the_better_one() -> None:
    """Where answers are free; and where nothing is measured of a probe nothing is said of it."""
    low, high = rows([-1.0] * 30, [0.1] * 30), rows([-1.0] * 30, [0.3] * 30)
    assert command.verdict(compare(low, high, "r"), {}, {}).startswith(
        "better than a random mask of the same size: loss"
    )
    found = command.verdict(compare(high, low, "r"), {}, {})
    assert found.startswith("worse than")
    assert "forgets" not in found


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([0.1] * 30, [0.3] * 30, "is lower, 0.1000 against 0.3000"),
        ([0.3] * 30, [0.1] * 30, "is higher, 0.3000 against 0.1000"),
        ([0.1, 0.3] * 15, [0.3, 0.1] * 15, "shows no difference, 0.2000 against 0.2000"),
    ],
)
def test_where_accuracy_decides_nothing_the_loss_is_told(ours: list[float], theirs: list[float], said: str) -> None:
    equal = [1.0] * 30
    found = command.verdict(compare(rows(equal, ours), rows(equal, theirs), "r"), {}, {})
    assert found.startswith("not shown to be better than a random mask of the same size: acc 1.0000 against 1.0000")
    assert f"; the loss of its answers {said}" in found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"method.select": "random"},
            "control is a random mask beside the chosen one, and select random is one itself",
        ),
        ({"data.eval": None}, "method.control compares scores, and data.eval is missing"),
        ({"method.density": 1.0}, "method.control: the mask takes all there is, and no other is left to draw by lot"),
    ],
)
def test_where_there_is_nothing_to_compare(
    change: dict[str, Any], said: str, more: Any, resolve: Resolve, reviews: Path, adapt: Adapt
) -> None:
    """In one line, by the run and by the dry run, before anything is trained."""
    flags = {**more("magnitude", control=True), "train.eval_every": None, **change}
    for run in (
        lambda: dry_run(resolve("llama-untied", reviews, "dry", flags)),
        lambda: adapt("llama-untied", "run", flags, at=kill_at(1)),
    ):
        with pytest.raises(RecipeError) as caught:
            run()
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_choice_alone_is_not_compared(more: Any, resolve: Resolve, reviews: Path) -> None:
    with pytest.raises(RecipeError, match="--choose-only trains nothing, and control compares two"):
        choose_only(resolve("llama-untied", reviews, "mask.safetensors", more("magnitude", control=True)), print)


@pytest.mark.parametrize("mask", MASKS)
def test_the_dry_run_foresees_it(
    mask: str, more: Any, resolve: Resolve, reviews: Path, adapt: Adapt, tmp_path: Path
) -> None:
    kind = MASKS[mask][0]
    alone = dry_run(resolve(kind, reviews, "dry", more(mask)))
    both = dry_run(resolve(kind, reviews, "dry", more(mask, control=True)))
    found = adapt(kind, "run", more(mask, control=True))["control"]
    files = [tmp_path / "run" / "control" / f"{name}.safetensors" for name in ("checkpoint", "best")]
    assert "control" not in alone
    assert both["control"]["steps"] == found["steps"] == both["steps"]
    assert both["control"]["trainable"] == pytest.approx(found["trainable"], rel=0.3)
    assert both["run_bytes"] - alone["run_bytes"] == 16 * both["control"]["trainable"]
    random_state_and_headers = 5056 + 2 * 4096
    assert 0 < sum(file.stat().st_size for file in files) - 16 * found["trainable"] < random_state_and_headers


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_beside_norms_entries_of_linear_layers(quant: str, more: Any, adapt: Adapt) -> None:
    """As many, in the same blocks; of a base that is quantised they run beside the layers."""
    flags = more("magnitude", control=True, select="norms", layers="last:2", shape="columns", density=0.01, ewc=0, l1=0)
    found = adapt("llama-untied", "run", flags | {"quant": quant})
    assert 0.97 * found["trainable"] <= found["control"]["trainable"] <= found["trainable"]
    assert found["control"]["scores"] != found["scores"]["before"]
    assert found["control"]["forgetting"]["kl"] > 0


EARLIER = Mask(name="mask", select="file", masks=["runs/a"])


def test_beside_an_earlier_mask_its_own_tensors(model_folders: dict[str, Path]) -> None:
    """Of each as large a share, by lot; mixed with whole tensors it is entries of the linear layers of its blocks."""
    model, anatomy = skeleton(model_folders["llama-tied"], None)
    names = [f"model.layers.2.mlp.{part}_proj.weight" for part in ("up", "down")]
    sizes = {name: tuple(model.get_parameter(name).shape) for name in names}
    mask = {name: Part("columns", size, np.arange(size[1] // 2)) for name, size in sizes.items()}
    found = alike(mask, EARLIER, model, anatomy, 0)
    assert {name: (part.kind, part.shape) for name, part in found.items()} == {
        name: (part.kind, part.shape) for name, part in mask.items()
    }
    assert any(found[name].index.tolist() != part.index.tolist() for name, part in mask.items())
    assert alike(mask, EARLIER, model, anatomy, 1)[names[0]].index.tolist() != found[names[0]].index.tolist()
    norm = "model.layers.1.input_layernorm.weight"
    found = alike(
        {**mask, norm: Part("whole", tuple(model.get_parameter(norm).shape), np.arange(0))}, EARLIER, model, anatomy, 0
    )
    assert {name.split(".")[2] for name in found} == {"1", "2"}
    assert {part.kind for part in found.values()} == {"entries"}
    assert numel(found) == pytest.approx(numel(mask) + model.get_parameter(norm).numel(), rel=0.05)


def test_norms_of_no_block_leave_nothing_to_draw(model_folders: dict[str, Path]) -> None:
    model, anatomy = skeleton(model_folders["llama-tied"], None)
    mask = {"model.norm.weight": Part("whole", tuple(model.get_parameter("model.norm.weight").shape), np.arange(0))}
    with pytest.raises(RecipeError, match="no other is left"):
        alike(mask, EARLIER, model, anatomy, 0)


def test_what_is_printed(more: Any, resolve: Resolve, reviews: Path, adapt: Adapt) -> None:
    """A column for the random mask, what it comes to below, and its steps in what is foreseen."""
    facts = adapt("llama-tied", "run", more("fisher", control=True))
    told = printed(result_table(facts))
    control = facts["control"]
    cells = {line.split("  ")[1].strip(): line.split() for line in told.splitlines() if line.startswith("  ")}
    assert "random mask" in told
    assert cells["acc"][-3:] == [f"{control['scores']['acc']:.4f}", "±", f"{control['scores']['acc_stderr']:.4f}"]
    assert cells["KL(base || tuned), nats a token"][-1] == f"{control['forgetting']['kl']:.4f}"
    assert cells["trained numbers"][-1] == f"{control['trainable']:,}"
    assert f"fisher columns: {control['verdict']}" in told
    foreseen = dry_run(resolve("llama-tied", reviews, "dry", more("fisher", control=True)))
    assert "steps with a random mask, to compare with" in printed(_cost_table(foreseen))


def printed(table: Any) -> str:
    """On a wide terminal."""
    file = io.StringIO()
    Console(width=400, file=file).print(table)
    return file.getvalue()


def test_the_pace_is_that_of_the_loop_that_runs() -> None:
    """A second loop counts its steps anew."""
    voice, left = Voice(), []
    voice.progress.step = lambda *given: left.append(given[-1])  # type: ignore[method-assign]
    for step in (1, 2, 3, 4, 1, 2):
        voice.step(StepFacts(step, 4, 1.0, 1e-3, 1.0, 8, 8, 0.5))
    assert left[3] == 0
    assert left[4] == pytest.approx(1.5, abs=0.3)
