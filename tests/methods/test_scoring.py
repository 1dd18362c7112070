"""What training rows say of each unit of a model's weights, against autograd through all of them at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ctxtune.backend.gradients import reading_gradients
from ctxtune.backend.load import load_base
from ctxtune.backend.mask import Part, units
from ctxtune.backend.quantise import Quantised
from ctxtune.commands.batches import Batches
from ctxtune.commands.chosen_mask import backward_over
from ctxtune.commands.guard import guard_rows
from ctxtune.commands.lesson import Lesson
from ctxtune.commands.minding import minding_over
from ctxtune.data.encode import EncodedSet, encode_pairs
from ctxtune.data.mixture import Mixture, Share
from ctxtune.errors import RecipeError
from ctxtune.evals import curvature
from ctxtune.methods.choosing import select
from ctxtune.methods.motion import ENDLESS
from ctxtune.methods.scoring import contrasted, of_gradients
from ctxtune.recipe.mask import Mask
from ctxtune.recipe.schema import Train

from ..conftest import CHOICES, review_rows

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ctxtune.backend.load import Base
    from ctxtune.backend.mask import Kind

TENSORS: dict[str, dict[str, Kind]] = {
    "llama-untied": {
        "model.layers.0.self_attn.k_proj.weight": "columns", "model.layers.3.mlp.down_proj.weight": "entries",
        "model.layers.2.mlp.up_proj.weight": "rows", "lm_head.weight": "blocks",
    },
    "gpt2-tied": {
        "transformer.h.0.attn.c_attn.weight": "rows", "transformer.h.3.mlp.c_fc.weight": "entries",
        "transformer.h.1.mlp.c_proj.weight": "blocks", "transformer.wte.weight": "columns",
    },
}  # fmt: skip


class Run:
    """Twelve reviews in batches of four: what a run would see of them, and the same by hand."""

    def __init__(self, base: Base, steps: int = 9) -> None:
        pairs = [(f"Review: {row['text']}\nSentiment:", row["label"]) for row in review_rows(12, 5)]
        self.examples = encode_pairs(base.tokenizer, pairs, delimiter=" ", kind=base.anatomy.kind)
        mixture = Mixture((Share("reviews", 1.0, 12),))
        options = Train(batch=4, lr=1e-3)
        self.batches = Batches.of([len(one.ids) for one in self.examples], mixture, 9, options)
        self.backward = backward_over(base, Lesson(EncodedSet(examples=self.examples)), self.batches, steps)

    def gradients(self, base: Base, names: list[str], batches: list[list[int]]) -> list[dict[str, Tensor]]:
        """Of each batch's mean loss, through the model's own forward, example by example."""
        params = [base.model.get_parameter(name).requires_grad_(True) for name in names]
        found = []
        for batch in batches:
            losses = []
            for one in (self.examples[i] for i in batch):
                logits = base.model(input_ids=torch.tensor([one.ids])).logits[0]
                losses.append(-logits.log_softmax(-1)[list(one.rows), list(one.labels)])
            grads = torch.autograd.grad(torch.cat(losses).mean(), params)
            found.append(dict(zip(names, grads, strict=True)))
        return found


def as_computed(folder: Path, quantised: Base) -> Base:
    """A float base with the weights that a quantised one computes with."""
    base = load_base(folder, "cpu")
    with torch.no_grad():
        for name, module in quantised.model.named_modules():
            if isinstance(module, Quantised):
                weight = module.float_weight()
                base.model.get_parameter(f"{name}.weight").copy_(weight.t() if module.turned else weight)
    return base


def by_hand(name: str, weights: Tensor, gradients: list[Tensor]) -> Tensor:
    return {
        "fisher": sum(one.square() for one in gradients),
        "snip": (weights * sum(gradients)).abs(),
        "movement": -weights * sum(gradients),
        "grad": sum(gradients).abs(),
    }[name].detach()


@pytest.mark.parametrize(
    ("case", "number", "rows"),
    [("llama-untied none", 5, None), ("gpt2-tied none", 3, 1), ("gpt2-tied nf4", 5, None), ("llama-untied int8", 2, 3)],
)
def test_scores_are_those_of_all_dense_gradients(
    case: str, number: int, rows: int | None, model_folders: dict[str, Path]
) -> None:
    """Also of more batches than an epoch has, and of rows one by one; the model is left as it was."""
    kind, quant = case.split()
    kinds = TENSORS[kind]
    base = load_base(model_folders[kind], "cpu", quant, [name for name in kinds if "wte" in name or "lm_head" in name])
    other, run = as_computed(model_folders[kind], base), Run(base)
    batches = [*run.batches.epoch(0), *run.batches.epoch(1)]
    flat = list(chain.from_iterable(batches))
    batches = batches[:number] if rows is None else [flat[i * rows : (i + 1) * rows] for i in range(number)]
    expected = run.gradients(other, list(kinds), batches)
    for name in ("fisher", "snip", "movement", "grad"):
        settings = Mask(name="mask", select=name, score_batches=number, score_rows=rows)
        scores = of_gradients(settings, base.model, kinds, run.backward)
        for tensor, shape in kinds.items():
            weight = other.model.get_parameter(tensor)
            entries = by_hand(name, weight, [one[tensor] for one in expected]).reshape(-1)
            count = units(shape, tuple(weight.shape))
            places = torch.from_numpy(Part(shape, tuple(weight.shape), np.arange(count)).entries())
            mean = entries[places].view(count, -1).mean(1)
            assert (scores[tensor] - mean).abs().max() <= 1e-5 * mean.abs().max(), (name, tensor)
    assert all(param.grad is None and not param.requires_grad for param in base.model.parameters())


@pytest.mark.parametrize("case", ["llama-untied none", "gpt2-tied nf4"])
def test_contrast_is_what_rows_ask_over_what_a_text_does(
    case: str, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: dense gradients of the rows, and of labels that the base draws for each token of a text."""
    kind, quant = case.split()
    kinds = TENSORS[kind]
    base = load_base(model_folders[kind], "cpu", quant, [name for name in kinds if "wte" in name or "lm_head" in name])
    other, run = as_computed(model_folders[kind], base), Run(base)
    text = " ".join(row["text"] for row in review_rows(30, 40))
    _, whole = guard_rows(text, base.tokenizer, base.anatomy, base.max_length)
    assert len(whole) > 1
    asked = run.gradients(other, list(kinds), run.batches.epoch(0))
    params = [other.model.get_parameter(name) for name in kinds]
    chance, minded = torch.Generator().manual_seed(0), dict.fromkeys(kinds, 0.0)
    for one in whole:
        said = other.model(input_ids=torch.tensor([one.ids])).logits[0].log_softmax(-1)
        drawn = torch.multinomial(said.detach().exp(), 1, generator=chance)
        for name, gradient in zip(kinds, torch.autograd.grad(-said.gather(1, drawn).sum(), params), strict=True):
            minded[name] += gradient.square() / len(one.ids) / len(whole)
    settings = Mask(name="mask", select="contrast", score_batches=len(asked))
    minding = minding_over(base, text, "mark", "disk")
    assert minding is not None
    scores = of_gradients(settings, base.model, kinds, run.backward)
    counts = [len(scores[name]) for name in kinds]
    read = minding(kinds, counts)
    monkeypatch.setattr(curvature, "passes", None)  # another run finds what this one has read
    again = minding_over(base, text, "mark", "disk")
    assert again is not None
    kept = again(kinds, counts)
    assert all(torch.equal(kept[name], read[name]) for name in kinds)
    scores = contrasted(scores, kept)
    for name, shape in kinds.items():
        size = tuple(other.model.get_parameter(name).shape)
        places = torch.from_numpy(Part(shape, size, np.arange(units(shape, size))).entries())
        over, under = (
            of.detach().reshape(-1)[places].view(units(shape, size), -1).mean(1)
            for of in (sum(one[name].square() for one in asked), minded[name])
        )
        expected = over / (under + 0.01 * under.mean())
        assert (scores[name] - expected).abs().max() <= 1e-3 * expected.max(), name


def test_contrast_takes_the_same_share_of_each_tensor(model_folders: dict[str, Path]) -> None:
    """Those that speak most; a text that never comes by leaves the word to the rows."""
    base = load_base(model_folders["llama-untied"], "cpu")
    settings = Mask(name="mask", select="contrast", shape="entries", density=0.1)
    backward = Run(base).backward
    span = replace(ENDLESS, backward=backward, minding=lambda kinds, counts: {})
    mask = select(settings, base.model, base.anatomy, span)
    scores = of_gradients(settings, base.model, dict.fromkeys(mask, "entries"), backward)
    for name, part in mask.items():
        assert len(part.index) == pytest.approx(0.1 * len(scores[name]), abs=1)
        left = scores[name][np.setdiff1d(np.arange(len(scores[name])), part.index)]
        assert scores[name][part.index].min() >= left.max()
    drawn = select(settings.model_copy(update={"select": "random"}), base.model, base.anatomy, ENDLESS)
    assert {name: part.shape for name, part in mask.items()} == {name: part.shape for name, part in drawn.items()}


def test_a_short_run_has_no_more_batches(model_folders: dict[str, Path]) -> None:
    base = load_base(model_folders["llama-untied"], "cpu")
    settings = Mask(name="mask", select="fisher", score_batches=16)
    kinds = TENSORS["llama-untied"]
    long, short = (of_gradients(settings, base.model, kinds, Run(base, steps).backward) for steps in (9, 2))
    two = of_gradients(settings.model_copy(update={"score_batches": 2}), base.model, kinds, Run(base).backward)
    for name in kinds:
        assert torch.equal(short[name], two[name])
        assert not torch.equal(short[name], long[name])


def test_the_highest_are_chosen(model_folders: dict[str, Path]) -> None:
    """Negative ones among them: movement knows both signs."""
    base = load_base(model_folders["llama-untied"], "cpu")
    settings = Mask(name="mask", select="movement", shape="entries", density=0.6)
    span = replace(ENDLESS, backward=Run(base).backward)
    mask = select(settings, base.model, base.anatomy, span)
    scores = of_gradients(settings, base.model, dict.fromkeys(mask, "entries"), Run(base).backward)
    chosen = torch.cat([scores[name][part.index] for name, part in mask.items()])
    left = torch.cat([scores[name][np.setdiff1d(np.arange(len(scores[name])), mask[name].index)] for name in mask])
    assert chosen.min() >= left.max()
    assert chosen.min() < 0
    assert len(chosen) == pytest.approx(0.6 * (len(chosen) + len(left)), rel=1e-3)


def test_rows_that_say_nothing(model_folders: dict[str, Path]) -> None:
    """Below a classifier that begins at zero there is no gradient; a model that blew up has none either."""
    settings, kinds = Mask(name="mask", select="fisher"), {"bert.encoder.layer.3.output.dense.weight": "columns"}
    base = load_base(model_folders["bert-headless"], "cpu", classes=CHOICES)

    def backward(step: int, number: int, rows: int | None) -> None:
        base.model(input_ids=torch.arange(5, 13)[None]).logits.sum().backward()

    with pytest.raises(RecipeError, match="all gradients are 0") as caught:
        of_gradients(settings, base.model, kinds, backward)
    assert caught.value.hint
    torch.nn.init.constant_(base.model.get_submodule(base.anatomy.head).weight, torch.inf)
    with pytest.raises(RecipeError, match="the gradients are no numbers"):
        of_gradients(settings, base.model, kinds, backward)


def test_no_two_dense_gradients_are_there_at_once(model_folders: dict[str, Path]) -> None:
    """Each is let go before the next is made; who gathers a part of one gets it all the same."""
    base = load_base(model_folders["llama-tied"], "cpu")
    names = [name for name, _ in base.model.named_parameters() if name.endswith("proj.weight")]
    seen: list[str] = []

    def see(name: str, gradient: Any) -> None:
        assert all(param.grad is None for param in base.model.parameters())
        seen.append(name)

    gathered = []
    param = base.model.get_parameter(names[0]).requires_grad_(True)
    param.register_post_accumulate_grad_hook(lambda whole: gathered.append(whole.grad.clone()))
    with reading_gradients(base.model, names, see):
        base.model(input_ids=torch.arange(5, 13)[None]).logits.sum().backward()
    assert sorted(seen) == sorted(names)
    assert len(gathered) == 1
    assert param.requires_grad
    assert param.grad is None
