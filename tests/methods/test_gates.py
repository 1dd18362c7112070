"""Gates that learn which units stay, against autograd through drawn gates by hand, and on a task whose answer is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from ctxtune.backend.delta import Delta
from ctxtune.backend.load import load_base
from ctxtune.backend.mask import Part, numel, units
from ctxtune.commands.choose_only import choose_only
from ctxtune.commands.dry_run import dry_run
from ctxtune.engine.loop import take_step
from ctxtune.engine.optimizer import make_optimizer, move
from ctxtune.errors import RecipeError
from ctxtune.methods.gates import Gates
from ctxtune.methods.mask import open_method
from ctxtune.methods.motion import Span
from ctxtune.recipe.load import load
from ctxtune.recipe.mask import Mask
from ctxtune.recipe.schema import Train

from ..conftest import review_rows, write_jsonl
from ..test_laws import token_ids
from .test_penalty import Squares

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

WIDE, USEFUL = 40, (3, 8, 21, 34)


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(WIDE, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.lin(x)
        return found


class Layer(nn.Module):
    """One linear layer, in the places where a model's blocks lie."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found


class Columns(Squares):
    """The squares of y - (W + D) x, where only some columns of W are wrong."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        chance = torch.Generator().manual_seed(0)
        self.x = torch.randn(64, WIDE, generator=chance)
        wrong = torch.zeros(6, WIDE)
        wrong[:, list(USEFUL)] = torch.randn(6, len(USEFUL), generator=chance).sign()
        noise = 0.3 * torch.randn(64, 6, generator=chance)
        self.y = (self.x @ (layer.body.lin.weight.detach() + wrong).t() + noise).detach()

    def loss(self, part: Sequence[int]) -> Tensor:
        return (self.layer(self.x[part]) - self.y[part]).square().sum()

    def losses(self, batch: Sequence[int]) -> list[float]:
        with torch.no_grad():
            return [float(self.loss([i])) for i in batch]


def gated(steps: int, density: float = 0.1, kind: Any = "columns") -> tuple[Columns, Gates]:
    torch.manual_seed(0)
    layer = Layer()
    for param in layer.parameters():
        param.requires_grad_(False)
    part = Part(kind, (6, WIDE), np.arange(units(kind, (6, WIDE))))
    delta = Delta(layer, {"body.lin.weight": part})
    gates = Gates(delta, ("body.lin.weight",), density, steps, 0)
    delta.learn(SimpleNamespace(backbone="body", blocks="body"), gates.lay)  # type: ignore[arg-type]
    return Columns(layer), gates


def advance(task: Columns, gates: Gates, optimizer: Any, step: int, rows: int | None = None) -> None:
    options = Train(micro_batch=rows)
    take_step(move(gates.params, optimizer, gates.shares(step)), optimizer, task, range(64), 0.05, options, gates)


def shown(gates: Gates) -> Tensor:
    """D as a pass without a gradient has it (6, WIDE)."""
    with torch.no_grad():
        gates.delta.model(torch.zeros(1, WIDE))
    part = next(iter(gates.parts.values()))
    whole = torch.zeros(6 * WIDE)
    whole[part.entries()] = gates.flat.detach()
    return whole.view(6, WIDE)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_columns_that_matter_stay(seed: int) -> None:
    """Of 40 columns the 4 that are wrong; after the half in which gates decide these learn on to the least squares."""
    task, gates = gated(60)
    torch.manual_seed(seed)
    optimizer = make_optimizer(gates.params, Train())
    for step in range(200):
        advance(task, gates, optimizer, step)
        stay = shown(gates).ne(0).any(0).nonzero()[:, 0].tolist()
        assert len(stay) <= len(USEFUL)
    assert stay == list(USEFUL)
    assert gates.facts() == {"candidates": 240, "gates": 40, "kept": 24}
    wanted = task.y - task.x @ task.layer.body.lin.weight.detach().t()  # with D in it
    best = torch.linalg.lstsq(task.x[:, stay], wanted + task.x @ shown(gates).t()).solution.t()
    assert (shown(gates)[:, stay] - best).abs().max() < 0.05


def test_the_mean_share_of_open_gates() -> None:
    """It falls as the cube of the steps that are left, exactly; the rate of changes rises as it falls."""
    task, gates = gated(8, density=0.25)
    optimizer = make_optimizer(gates.params, Train())
    for step in range(8):
        share = 0.25 + 0.65 * (1 - step / 8) ** 3
        near = 1e-5 if step else 1e-2  # gates begin a little apart from each other
        assert float((gates.logits.detach() - 2 / 3 * np.log(0.1 / 1.1)).sigmoid().mean()) == pytest.approx(
            share, abs=near
        )
        assert gates.shares(step)["delta"] == pytest.approx(0.25 / share)
        drawn = torch.stack([gates._draw()[0] for _ in range(400)])
        assert float((drawn != 0).float().mean()) == pytest.approx(share, abs=0.02)
        advance(task, gates, optimizer, step)
    assert gates.shares(8)["delta"] == 1
    assert int((gates.logits > 0).sum()) == 10


def test_deciding_changes_nothing() -> None:
    """What a pass without a gradient said before it says after, of the highest gates alone, and no chance is left."""
    task, gates = gated(50)
    optimizer = make_optimizer(gates.params, Train())
    for step in range(20):
        advance(task, gates, optimizer, step)
    highest = sorted(gates.logits.detach().topk(4).indices.tolist())
    before, chance = shown(gates).clone(), torch.get_rng_state()
    assert before.ne(0).any(0).nonzero()[:, 0].tolist() == highest
    gates.decide()
    assert torch.equal(shown(gates), before)
    advance(task, gates, optimizer, 50)
    gates.decide()
    assert torch.equal(torch.get_rng_state(), chance)
    assert shown(gates).ne(0).any(0).nonzero()[:, 0].tolist() == highest
    assert not torch.equal(shown(gates), before)
    kept = gates.kept()
    assert kept.pieces["body.lin.weight"].part.index.tolist() == highest
    assert torch.equal(kept.values()["body.lin.weight"], shown(gates)[:, highest].t())


@pytest.mark.parametrize("rows", [1, 5])
def test_one_draw_a_step(rows: int) -> None:
    """In however many parts a batch is taken, and whatever is scored meanwhile."""
    found = []
    for parts in (None, rows):
        task, gates = gated(10, kind="entries")
        torch.manual_seed(3)
        optimizer = make_optimizer(gates.params, Train())
        for step in range(6):
            advance(task, gates, optimizer, step, parts)
            if parts:
                task.losses(range(3))
        found.append((gates.changes.detach().clone(), gates.logits.detach().clone(), torch.get_rng_state()))
    assert (found[0][0] - found[1][0]).abs().max() < 1e-4
    assert (found[0][1] - found[1][1]).abs().max() < 1e-3
    assert torch.equal(found[0][2], found[1][2])
    assert found[0][0].abs().max() > 1e-2


@pytest.mark.parametrize("shape", ["columns", "rows", "blocks", "entries"])
@pytest.mark.parametrize("kind", ["llama-untied", "gpt2-tied"])
def test_gradients_are_those_of_autograd(kind: str, shape: str, model_folders: dict[str, Path]) -> None:
    """Of z w scattered into dense weights, z from the same chance by hand."""
    base, dense = (load_base(model_folders[kind], "cpu") for _ in range(2))
    settings = Mask(name="mask", select="l0", shape=shape, density=0.1, candidates=0.4)  # type: ignore[arg-type]
    method = open_method(settings, base.model, base.anatomy, Span(10, 5))
    gates = method.gates
    assert gates is not None
    with torch.no_grad():
        chance = torch.Generator().manual_seed(1)
        gates.changes.copy_(0.1 * torch.randn(gates.changes.shape, generator=chance))
        gates.logits.copy_(2 * torch.randn(gates.logits.shape, generator=chance))
    torch.manual_seed(5)
    base.model(input_ids=token_ids()).logits.float().square().mean().backward()
    gates.pull()

    w, a = (one.detach().clone().requires_grad_(True) for one in (gates.changes, gates.logits))
    torch.manual_seed(5)
    u = torch.rand(len(a))
    z = (1.2 * torch.sigmoid((torch.log(u / (1 - u)) + a) * 1.5) - 0.1).clamp(0, 1)
    weights, place, unit = dict(dense.model.named_parameters()), 0, 0
    changed = {}
    for name, part in method.mask.items():
        many, here = len(part.index), part.numel
        values = (w[place : place + here].view(many, -1) * z[unit : unit + many, None]).reshape(-1)
        place, unit = place + here, unit + many
        changed[name] = weights[name].reshape(-1).index_add(0, torch.from_numpy(part.entries()), values).view(part.size)
    assert (place, unit) == (len(w), len(a))
    out = functional_call(dense.model, changed, kwargs={"input_ids": token_ids()}, tie_weights=True).logits
    out.float().square().mean().backward()
    for found, expected in ((gates.changes.grad, w.grad), (gates.logits.grad, a.grad)):
        assert found is not None
        assert expected is not None
        assert expected.abs().max() > 1e-5
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max() + 1e-9
    assert gates.flat.grad is None


def test_the_share_that_stays(model_folders: dict[str, Path]) -> None:
    """Of all numbers of the layers, whatever the share of candidates; a budget in numbers as well."""
    for more, share in (({"density": 0.1}, 0.1), ({"density": 0.1, "candidates": 0.3}, 0.1), ({"budget": 2000}, None)):
        base = load_base(model_folders["llama-untied"], "cpu")
        settings = Mask(name="mask", select="l0", shape="entries", **more)  # type: ignore[arg-type]
        method = open_method(settings, base.model, base.anatomy, Span(10, 5))
        everything = sum(int(np.prod(part.size)) for part in method.mask.values())
        assert numel(method.mask) == pytest.approx(
            everything * more.get("candidates", min(1, 10 * (share or 2000 / everything))), rel=0.01
        )
        method.finish()
        assert numel(method.mask) == pytest.approx(everything * share if share else 2000, rel=0.01)


def asked(model: Path, rows: Path, out: Path, more: dict[str, object]) -> Any:
    flags = {"model": str(model), "data.train": str(rows), "data.prompt": "{{ text }}", "data.answer": "{{ label }}"}
    return load(None, flags | {"method.name": "mask", "method.select": "l0", "out": str(out)} | more)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method.l1": 1e-3}, "select l0 says how many changes stay"),
        ({"method.ewc": 1}, "select l0 says how many changes stay"),
        ({"method.density": 0.2, "method.candidates": 0.2}, "candidates 0.2 leave nothing to choose from"),
        ({"method.density": 1}, "candidates 1 leave nothing to choose from"),
        ({"method.decide": 0}, "method.decide"),
    ],
)
def test_what_cannot_be_chosen(
    more: dict[str, object], said: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", review_rows(8, 0))
    with pytest.raises(RecipeError, match=said) as caught:
        dry_run(asked(model_folders["llama-tied"], rows, tmp_path / "run", more))
    assert "\n" not in str(caught.value)


def test_what_is_learned_cannot_be_chosen_only(model_folders: dict[str, Path], tmp_path: Path) -> None:
    resolved = asked(model_folders["llama-tied"], tmp_path / "none", tmp_path / "mask", {})
    with pytest.raises(RecipeError, match="select l0 learns what it chooses") as caught:
        choose_only(resolved, lambda text: None)
    assert "file:RUN" in str(caught.value.hint)
