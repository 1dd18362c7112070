"""What a base minds of each change, against dense gradients by autograd through the whole model; and runs that pay for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ctxtune.backend.feed import Feed
from ctxtune.backend.load import load_base
from ctxtune.backend.mask import Part, units
from ctxtune.backend.trunk import Trunk
from ctxtune.commands.adapt import adapt
from ctxtune.errors import RecipeError
from ctxtune.evals.curvature import fisher
from ctxtune.evals.forgetting import probe_examples
from ctxtune.methods.mask import open_method
from ctxtune.methods.penalty import Penalty, of_units
from ctxtune.recipe.load import load
from ctxtune.recipe.mask import Mask

from ..conftest import CHOICES, PROMPT, Killed, Listener, adapter_tensors, kill_at, review_rows, write_jsonl
from ..test_laws import assert_same_run

if TYPE_CHECKING:
    from pathlib import Path

    from ctxtune.backend.mask import Kind
    from ctxtune.recipe.load import Resolved


def run(folder: Path, out: Path, more: dict[str, Any]) -> Resolved:
    rows = out.parent / "rows.jsonl"
    if not rows.exists():
        write_jsonl(rows, review_rows(12, 0))
    return load(None, {
        "model": str(folder), "data.train": str(rows), "data.prompt": PROMPT, "data.answer": "{{ label }}",
        "data.choices": CHOICES, "method.name": "mask", "method.density": 0.1, "train.batch": 4, "train.steps": 4,
        "train.save_every": 2, "train.lr": 1e-2, "device": "cpu", "out": str(out), **more,
    })  # fmt: skip


def test_fisher_is_that_of_dense_gradients(model_folders: dict[str, Path]) -> None:
    base, other = (load_base(model_folders["llama-tied"], "cpu") for _ in range(2))
    method = open_method(Mask(name="mask", shape="entries", density=0.05, layers="1-3"), base.model, base.anatomy)
    examples = probe_examples([5 + (7 * i) % 50 for i in range(70)], "causal", None, 24)
    assert len(examples) == 3
    with Trunk(base, method.start) as trunk:
        found = fisher(method.delta.flat, Feed(trunk, examples), 3)
    assert method.delta.flat.grad is None
    chance = torch.Generator().manual_seed(3)
    weights = {name: other.model.get_parameter(name).requires_grad_(True) for name in method.mask}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for one in examples:
        said = other.model(input_ids=torch.tensor([one.ids])).logits[0].log_softmax(-1)
        drawn = torch.multinomial(said.detach().exp(), 1, generator=chance)
        gradients = torch.autograd.grad(-said.gather(1, drawn).sum(), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            sums[name] += gradient.square() / len(one.ids) / 3
    for name, piece in method.delta.pieces.items():
        expected = sums[name].detach().reshape(-1)[torch.from_numpy(piece.part.entries())]
        assert torch.allclose(piece.of(found).reshape(-1), expected, rtol=1e-3, atol=1e-9)
        assert expected.any()


def test_the_cost_is_a_term_of_the_loss() -> None:
    flat, minds = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0])), torch.tensor([0.5, 0.0, 2.0])
    penalty = Penalty(flat, 2, 0.1, 0.0, 4.0, minds)
    cost = (0.05 * flat[:2].square() + 2.0 * minds[:2] * flat[:2].square()).sum()
    (expected,) = torch.autograd.grad(cost, flat)
    penalty.pull()
    assert torch.allclose(flat.grad, expected)
    assert penalty.facts()["value"] == pytest.approx(cost.item())


@pytest.mark.parametrize("kind", ["columns", "rows", "blocks", "entries"])
def test_what_is_known_of_units_is_spread_over_their_numbers(kind: Kind) -> None:
    """Against the same written out in the shape of the tensor."""
    size = (32, 64)
    known = torch.rand(units(kind, size))
    whole = {
        "columns": lambda: known.expand(size),
        "rows": lambda: known[:, None].expand(size),
        "blocks": lambda: known.view(1, 2).repeat_interleave(32, 0).repeat_interleave(32, 1),
        "entries": lambda: known.view(size),
    }[kind]()
    part = Part(kind, size, np.unique(np.array([1, 3, 4]) % units(kind, size)))
    spread = of_units({"a": known}, {"a": part})
    assert torch.equal(spread, whole.reshape(-1)[torch.from_numpy(part.entries())])


@pytest.mark.parametrize("shape", ["columns", "rows", "entries"])
def test_a_choice_by_contrast_has_its_price_by_itself(
    model_folders: dict[str, Path], tmp_path: Path, shape: str
) -> None:
    """With a price of 0 it moves further; where it was stopped it goes on to the same end."""
    folder = model_folders["llama-tied"]
    (tmp_path / "probe.txt").write_text("A plain text that nobody asked for, about birds and the sea. " * 4)
    more = {"forget.probe": str(tmp_path / "probe.txt"), "method.select": "contrast", "method.shape": shape}
    more |= {"method.density": 0.2, "train.lr": 0.05}
    paid = adapt(run(folder, tmp_path / "paid", more), False, Listener())
    free = adapt(run(folder, tmp_path / "free", more | {"method.ewc": 0.0}), False, Listener())
    assert paid["penalty"]["value"] > 0
    assert free["penalty"] is None
    assert paid["forgetting"]["after"]["kl"] < free["forgetting"]["after"]["kl"]
    with pytest.raises(Killed):
        adapt(run(folder, tmp_path / "broken", more), False, Listener(kill_at(3)))
    adapt(run(folder, tmp_path / "broken", more), True, Listener())
    assert_same_run(tmp_path / "broken", tmp_path / "paid")


def test_a_run_that_pays_by_what_the_base_minds(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Dear enough it moves hardly; a killed one goes on to the same end."""
    folder = model_folders["llama-tied"]
    (tmp_path / "probe.txt").write_text("A plain text that nobody asked for, about birds and the sea. " * 4)
    (tmp_path / "other.txt").write_text(
        "Of ships and shores, which the birds see from above, nobody asked either. " * 4
    )
    text = {"forget.probe": str(tmp_path / "probe.txt")}
    free = adapt(run(folder, tmp_path / "free", text), False, Listener())
    text["forget.text"] = str(tmp_path / "other.txt")
    paid = adapt(run(folder, tmp_path / "paid", text | {"method.ewc": 1e4}), False, Listener())
    assert paid["penalty"]["value"] > 0
    assert paid["forgetting"]["after"]["kl"] < free["forgetting"]["after"]["kl"]
    with pytest.raises(Killed):
        adapt(run(folder, tmp_path / "broken", text | {"method.ewc": 1e4}), False, Listener(kill_at(3)))
    adapt(run(folder, tmp_path / "broken", text | {"method.ewc": 1e4}), True, Listener())
    assert_same_run(tmp_path / "broken", tmp_path / "paid")
    assert load(str(tmp_path / "paid" / "recipe.yaml"), {}).recipe.inputs.keys() >= {"guard", "probe"}


def test_what_the_base_minds_is_not_read_off_the_probe(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Another probe, or none, changes nothing of what a run comes to; the text itself does, and is refused as the probe."""
    folder, numbers = model_folders["llama-tied"], {}
    for name, words in (("a", "Birds and the sea. "), ("b", "Rails, roads, and what goes on them by night. ")):
        (tmp_path / f"{name}.txt").write_text(words * 12)
    for probe, text in (("a", "b"), ("none", "b"), ("none", "a")):
        more = {"forget.probe": probe if probe == "none" else str(tmp_path / f"{probe}.txt")}
        more |= {"method.ewc": 1e3, "forget.text": str(tmp_path / f"{text}.txt")}
        out = tmp_path / f"{probe}-{text}"
        adapt(run(folder, out, more), False, Listener())
        numbers[probe, text] = adapter_tensors(out)
    same, other = numbers["a", "b"], numbers["none", "a"]
    assert all(torch.equal(same[name], numbers["none", "b"][name]) for name in same)
    assert not all(torch.equal(same[name], other[name]) for name in same)
    both = {"forget.probe": str(tmp_path / "a.txt"), "forget.text": str(tmp_path / "a.txt"), "method.ewc": 1.0}
    with pytest.raises(RecipeError, match="is the probe itself"):
        run(folder, tmp_path / "out", both)


def test_where_nothing_tells_what_the_base_minds(model_folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="says nothing of a text") as caught:
        adapt(run(model_folders["bert-headless"], tmp_path / "out", {"method.ewc": 1.0}), False, Listener())
    assert caught.value.hint
    with pytest.raises(RecipeError, match="select grad"):
        run(model_folders["llama-tied"], tmp_path / "out", {"method.ewc": 1.0, "method.select": "grad"})
