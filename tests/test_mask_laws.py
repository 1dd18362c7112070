"""The laws of DESIGN section 6 for masks, over families, shapes and ways to store the base.

A covering set of cells runs by default, the full matrix with `pytest -m slow`.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ctxtune.adapter.attach import attach
from ctxtune.adapter.extent import extents
from ctxtune.adapter.mask import read_mask
from ctxtune.adapter.merge import merge
from ctxtune.adapter.moved import held_delta
from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.verify import verify
from ctxtune.backend.delta import Delta
from ctxtune.backend.feed import Feed
from ctxtune.backend.load import load_base
from ctxtune.backend.mask import Part, numel, units
from ctxtune.backend.skeleton import skeleton
from ctxtune.backend.trunk import Trunk
from ctxtune.commands.adapt import adapt
from ctxtune.commands.choose_only import choose_only
from ctxtune.commands.dry_run import dry_run
from ctxtune.commands.evaluate import load_for
from ctxtune.data.encode import Encoded, encode_pairs
from ctxtune.engine.loop import take_step
from ctxtune.errors import CtxtuneError, RecipeError
from ctxtune.methods.choosing import outside_blocks
from ctxtune.methods.mask import Opened, open_method
from ctxtune.methods.scoring import low_rank
from ctxtune.objectives.labels import Labels
from ctxtune.recipe.load import load
from ctxtune.recipe.mask import BY_LOSS, RANKED
from ctxtune.recipe.mask import Mask as Settings
from ctxtune.recipe.schema import Train

from .conftest import (
    CHOICES,
    DECLINED,
    FOUND,
    HEADLESS_KINDS,
    PROMPT,
    Killed,
    Listener,
    adapter_tensors,
    capture,
    kill_at,
    losses,
    resolve_recipe,
    review_rows,
    same_tensors,
    write_jsonl,
)  # fmt: skip
from .test_laws import (
    ALL_KINDS,
    CACHES,
    CHILD_LOGITS,
    QUANTS,
    Cell,
    Recorder,
    assert_same_run,
    bits,
    child,
    logits,
    parameters,
    token_ids,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from ctxtune.backend.load import Base
    from ctxtune.recipe.load import Resolved

MASKS: dict[str, dict[str, Any]] = {
    "columns": {"select": "random", "density": 0.1},
    "rows": {"select": "random", "shape": "rows", "density": 0.1},
    "blocks": {"select": "random", "shape": "blocks", "density": 0.2},
    "entries": {"select": "random", "shape": "entries", "density": 0.05},
    "top entries": {"select": "random", "shape": "entries", "density": 0.05, "layers": "last:2"},
    "largest": {"select": "magnitude", "density": 0.1, "layers": "1-2.mlp"},
    "spoken": {"select": "random", "layers": "head", "shape": "rows", "density": 0.1},
    "principal": {"select": "lift", "rank": 4, "shape": "entries", "density": 0.002},
    "contrast": {"select": "contrast", "density": 0.1, "score_batches": 2},
    "fisher": {"select": "fisher", "density": 0.1, "score_batches": 2},
    "snip": {"select": "snip", "shape": "entries", "density": 0.05, "layers": "last:2", "score_rows": 4},
    "movement": {"select": "movement", "shape": "rows", "density": 0.1, "score_batches": 9},
    "grad": {
        "select": "grad", "shape": "entries", "density": 0.05, "layers": "last:2", "score_batches": 2, "regrow": 0.9,
        "regrow_every": 2, "regrow_batches": 2,
    },
    "learned": {"select": "l0", "density": 0.1, "candidates": 0.5},
    "learned entries": {"select": "l0", "shape": "entries", "density": 0.05, "layers": "last:2"},
    "bits": {"learn": "bits", "layers": "last:2"},
    "small": {"select": "random", "shape": "entries", "density": 0.05, "l2": 0.2, "l1": 1e-3},
    "norms": {"select": "norms"},
    "words": {"select": "random", "layers": "last:1+embeddings", "shape": "entries", "density": 0.05},
}  # fmt: skip
CHOSEN = (
    "spoken",
    "principal",
    "contrast",
    "fisher",
    "snip",
    "movement",
    "grad",
    "small",
    "learned",
    "learned entries",
    "bits",
)
"""masks that differ in what is chosen, or in what a change costs, not in how it moves: a few cells tell"""
GATED = ("learned", "learned entries")
"""masks of which a part stays"""
COVER = {
    ("llama-tied", "columns", "none"), ("llama-untied", "blocks", "none"), ("mistral-untied", "entries", "none"),
    ("llama-tied", "largest", "none"), ("bert-tied", "words", "none"), ("granite-tied", "norms", "none"),
    ("roberta-headless", "top entries", "none"), ("llama-untied", "entries", "int8"), ("gpt2-tied", "rows", "nf4"),
    ("llama-tied", "spoken", "none"), ("gpt2-tied", "principal", "none"), ("llama-untied", "fisher", "none"),
    ("gpt2-tied", "snip", "nf4"), ("bert-tied", "movement", "none"), ("llama-untied", "grad", "nf4"),
    ("gpt2-tied", "small", "none"), ("gpt2-tied", "learned", "none"), ("llama-untied", "learned entries", "nf4"),
    ("bert-headless", "learned", "none"), ("bert-tied", "contrast", "none"), ("gpt2-tied", "contrast", "nf4"),
}  # fmt: skip
RATE = 3e-2


def cells(without: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Every cell of the matrix; those outside the covering set are slow."""
    table = [
        pytest.param(*cell, marks=[pytest.mark.slow] * (cell not in COVER), id="-".join(cell))
        for cell in itertools.product(ALL_KINDS, MASKS, QUANTS)
        if (cell in COVER or cell[1] not in CHOSEN) and cell[1] not in without
    ]
    return pytest.mark.parametrize(("kind", "mask", "quant"), table)


@dataclass
class Lab:
    """Runs each cell once for all laws."""

    folders: dict[str, Path]
    root: Path
    done: dict[tuple[str, ...], Cell] = field(default_factory=dict)

    def cell(self, *cell: str) -> Cell:
        if cell not in self.done:
            self.done[cell] = self._run(*cell)
        return self.done[cell]

    def recipe(self, kind: str, mask: str, out: Path, more: dict[str, Any]) -> Resolved:
        """The recipe of a short run."""
        settings = {f"method.{key}": value for key, value in MASKS.get(mask, {}).items()}
        flags: dict[str, Any] = {
            "model": str(self.folders[kind]), "data.train": str(self.rows("train", 22, 0)), "data.prompt": PROMPT,
            "data.answer": "{{ label }}", "data.choices": CHOICES, "method.name": "mask", "train.batch": 8, "train.steps": 3,
            "train.lr": RATE, "device": "cpu", "forget.probe": "none", "cache": "memory", "out": str(out),
        }  # fmt: skip
        return load(None, flags | settings | more)

    def rows(self, name: str, count: int, offset: int) -> Path:
        path = self.root / f"{name}.jsonl"
        return path if path.exists() else write_jsonl(path, review_rows(count, offset))

    def base(self, kind: str, mask: str, quant: str) -> Base:
        """The base as a run of the cell loads it, a new one at each call."""
        moving = outside_blocks(Settings(name="mask", **MASKS[mask]), *skeleton(self.folders[kind], CHOICES))
        return load_base(self.folders[kind], "cpu", quant, moving if quant != "none" else (), CHOICES)

    def opened(self, base: Base, kind: str, mask: str, quant: str) -> Opened:
        """A cell's mask on a base; what rows speak for is that of its run."""
        settings = Settings(name="mask", **MASKS[mask])
        if settings.select in BY_LOSS:
            settings = settings.model_copy(
                update={"masks": [str(self.cell(kind, mask, quant).run / "mask.safetensors")]}
            )
        return open_method(settings, base.model, base.anatomy)

    def _run(self, kind: str, mask: str, quant: str) -> Cell:
        run = self.root / f"{kind} {mask} {quant}"
        with pytest.MonkeyPatch.context() as patch:
            found = capture(patch)
            facts = adapt(self.recipe(kind, mask, run, {"quant": quant}), False, Listener())
        (trained,) = found
        return Cell(self.folders[kind], run, facts, trained, logits(trained.model))


@pytest.fixture(scope="module")
def lab(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(model_folders, tmp_path_factory.mktemp("laws"))


# --- or it is refused with the reason


@pytest.mark.parametrize("kind", DECLINED)
def test_a_mask_is_refused_with_the_reason(kind: str, lab: Lab, tmp_path: Path) -> None:
    """By the run and by the dry run, in one line, before anything is written."""
    resolved = lab.recipe(kind, "columns", tmp_path / "run", {})
    for command in (lambda: dry_run(resolved), lambda: adapt(resolved, False, Listener())):
        with pytest.raises(CtxtuneError, match="is not supported") as caught:
            command()
        assert "\n" not in str(caught.value)
        assert caught.value.hint
        assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method.select": "bias"}, "this model has no biases there"),
        ({"method.layers": "1.norms"}, "this model has no linear layers there"),
        ({"method.budget": 10**9}, "the layers chosen have"),
        ({"method.layers": "last:9"}, "'last:9' does not fit"),
    ],
)
def test_a_mask_that_chooses_nothing(more: dict[str, Any], said: str, lab: Lab, tmp_path: Path) -> None:
    resolved = lab.recipe("llama-tied", "columns", tmp_path / "run", more)
    for command in (lambda: dry_run(resolved), lambda: adapt(resolved, False, Listener())):
        with pytest.raises(RecipeError, match=said) as caught:
            command()
        assert caught.value.hint


# --- 1: at initialisation the adapted model equals the base


@cells()
def test_law_1_a_mask_changes_nothing_before_the_first_step(kind: str, mask: str, quant: str, lab: Lab) -> None:
    base = lab.base(kind, mask, quant)
    expected = logits(base.model)
    method = lab.opened(base, kind, mask, quant)
    assert torch.equal(logits(base.model), expected)
    method.finish()
    assert torch.equal(logits(base.model), expected)


# --- 2: only the named numbers move


@cells()
def test_law_2_only_the_numbers_of_the_mask_move(kind: str, mask: str, quant: str, lab: Lab) -> None:
    cell, base = lab.cell(kind, mask, quant), lab.base(kind, mask, quant)
    chosen = lab.opened(lab.base(kind, mask, quant), kind, mask, quant).mask
    file = open_adapter(cell.adapter)
    if mask in GATED:  # some of these
        began, chosen = chosen, read_mask(file.path, file.header)
        assert chosen.keys() == began.keys()
        assert all(set(part.entries()) <= set(began[name].entries()) for name, part in chosen.items())
    if mask == "grad":  # others by now, as many of each tensor
        began, chosen = chosen, read_mask(file.path, file.header)
        assert {name: part.shape for name, part in chosen.items()} == {name: part.shape for name, part in began.items()}
        assert any(chosen[name].index.tolist() != part.index.tolist() for name, part in began.items())
    before, after = parameters(base.model), parameters(cell.trained.model)
    beside = load_file(cell.adapter / "adapter_model.safetensors")
    same = {
        name: {id(one) for name_, one in before.items() if one is before[name]} for name in chosen if name in before
    }
    moving = {ident for some in same.values() for ident in some}
    for name, parameter in before.items():
        if id(parameter) not in moving or not parameter.is_floating_point():
            assert bits(parameter) == bits(after[name]), name
    for name, part in chosen.items():
        assert beside[f"{name}.delta"].ne(0).any(), name
        if not before[name].is_floating_point():
            continue  # the change stands beside codes, which have not moved
        moved = (after[name] != before[name]).reshape(-1).nonzero()[:, 0]
        assert set(moved.tolist()) <= set(part.entries().tolist())
        assert len(moved) > part.numel / (20 if "emb" in name or "wte" in name else 4)  # words that do not occur stay
    buffers = dict(base.model.named_buffers())
    for name, buffer in cell.trained.model.named_buffers():
        assert bits(buffer) == bits(buffers[name]), name


# --- 3: saved and loaded in a fresh process


@pytest.fixture(scope="module")
def fresh(lab: Lab, request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """The logits of every cell that is looked at, all from one fresh process."""
    wanted = {
        tuple(str(item.callspec.params[key]) for key in ("kind", "mask", "quant"))
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.name.startswith("test_law_3_a_mask")
    }
    made = {" ".join(names): lab.cell(*names) for names in sorted(wanted)}
    table = [[name, str(cell.model), str(cell.adapter)] for name, cell in made.items()]
    out = lab.root / "fresh.safetensors"
    done = child(CHILD_LOGITS, json.dumps(table), str(out))
    assert done.returncode == 0, done.stderr
    tensors: dict[str, Tensor] = load_file(out)
    return tensors


@cells()
def test_law_3_a_mask_loaded_in_a_fresh_process(
    kind: str, mask: str, quant: str, lab: Lab, fresh: dict[str, Tensor]
) -> None:
    cell = lab.cell(kind, mask, quant)
    assert (fresh[f"{kind} {mask} {quant}"] - cell.logits).abs().max() == 0.0
    assert not torch.equal(cell.logits, logits(lab.base(kind, mask, quant).model))
    assert all(check.ok for check in verify(open_adapter(cell.run)))


# --- 4: merged equals attached; detached is the base


@cells()
def test_law_4_a_merged_mask_equals_an_attached_one(kind: str, mask: str, quant: str, lab: Lab, tmp_path: Path) -> None:
    """Merging goes into the float base, whatever it was trained on."""
    cell = lab.cell(kind, mask, quant)
    base = load_base(cell.model, "cpu", classes=CHOICES)
    plain = logits(base.model)
    attach(base.model, open_adapter(cell.adapter))
    adapted = logits(base.model)
    merge(cell.model, open_adapter(cell.adapter), tmp_path / "merged")
    merged = logits(load_base(tmp_path / "merged", "cpu").model)
    assert (merged - adapted).abs().max() <= 1e-5 * adapted.abs().max()
    assert (merged - plain).abs().max() > 1e-4 * adapted.abs().max()


@cells()
def test_law_4_a_mask_comes_off(kind: str, mask: str, quant: str, lab: Lab) -> None:
    cell, base = lab.cell(kind, mask, quant), lab.base(kind, mask, quant)
    before = {name: (parameter, bits(parameter)) for name, parameter in parameters(base.model).items()}
    plain = logits(base.model)
    taken = attach(base.model, open_adapter(cell.adapter))
    taken.attach()
    assert torch.equal(logits(base.model), cell.logits)
    taken.detach()
    taken.detach()
    for name, parameter in parameters(base.model).items():
        assert parameter is before[name][0]
        assert bits(parameter) == before[name][1]
        assert not parameter.requires_grad
    assert torch.equal(logits(base.model), plain)
    taken.attach()
    assert torch.equal(logits(base.model), cell.logits)


# --- 5: what the dry run printed is what was done


@cells()
def test_law_5_the_dry_run_foresees_a_mask(kind: str, mask: str, quant: str, lab: Lab, tmp_path: Path) -> None:
    cell = lab.cell(kind, mask, quant)
    foreseen = dry_run(lab.recipe(kind, mask, tmp_path / "foreseen", {"quant": quant}))
    stored = load_file(cell.adapter / "adapter_model.safetensors")
    for key in ("parameters", "weight_bytes", "start_layer", "steps"):
        assert foreseen[key] == cell.facts[key], key
    assert foreseen["adapter_tensors"] == len(stored)
    if MASKS[mask].get("select") in RANKED:  # which these are is told by the weights, or by the rows
        assert foreseen["trainable"] == pytest.approx(cell.facts["trainable"], rel=0.03)
        return
    if mask in GATED:
        chosen = cell.facts["penalty"]
        head = cell.facts["trainable"] - chosen["kept"]
        assert foreseen["trainable"] == chosen["candidates"] + chosen["gates"] + head
        assert foreseen["adapter_tensor_bytes"] == pytest.approx(
            sum(tensor.nbytes for tensor in stored.values()), rel=0.3
        )
        return
    assert foreseen["trainable"] == cell.facts["trainable"]
    assert foreseen["trainable"] == sum(tensor.numel() for name, tensor in stored.items() if name.endswith(".delta"))
    assert foreseen["adapter_tensor_bytes"] == sum(tensor.nbytes for tensor in stored.values())
    assert not (tmp_path / "foreseen").exists()


# --- 6: 2N steps equal N steps, a kill, and N steps more


SOON = {
    *(("llama-tied", "top entries", cache, "none") for cache in CACHES), ("gpt2-tied", "columns", "off", "none"),
    ("bert-tied", "words", "off", "none"), ("llama-untied", "rows", "off", "nf4"), ("llama-untied", "fisher", "off", "none"),
    ("llama-tied", "norms", "off", "none"), ("llama-tied", "grad", "memory", "none"), ("gpt2-tied", "small", "off", "none"),
    ("gpt2-tied", "learned", "off", "none"), ("llama-untied", "learned entries", "memory", "nf4"),
}  # fmt: skip
RESUMED = [
    pytest.param(*cell, id="-".join(cell), marks=[pytest.mark.slow] * (cell not in SOON))
    for cell in itertools.product(ALL_KINDS, MASKS, CACHES, QUANTS)
    if cell in SOON or (cell[2] == "disk" and cell[1] not in CHOSEN)
]


@pytest.mark.parametrize(("kind", "mask", "cache", "quant"), RESUMED)
def test_law_6_a_mask_killed_and_resumed(
    kind: str, mask: str, cache: str, quant: str, lab: Lab, tmp_path: Path
) -> None:
    def run(out: str, resume: bool = False, at: Any = lambda facts: None) -> None:
        more = {"cache": cache, "quant": quant, "train.steps": 6, "train.save_every": 2, "train.eval_every": 2}
        more |= {"data.eval": str(lab.rows("dev", 6, 30)), "train.lr": "auto" if kind == "gpt2-tied" else RATE}
        adapt(lab.recipe(kind, mask, tmp_path / out, more), resume, Listener(at))

    run("straight")
    for step in (1, 4, 5):
        with pytest.raises(Killed):
            run("broken", resume=True, at=kill_at(step))
    run("broken", resume=True)
    assert_same_run(tmp_path / "broken", tmp_path / "straight")


# --- 7: batches in parts, padded or not, kept or not: the same losses and gradients


@pytest.fixture
def objective(lab: Lab) -> Iterator[Callable[..., tuple[Labels, Opened]]]:
    """objective(kind, mask, quant): the loss on eight reviews, and the method."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(kind: str, mask: str, quant: str) -> tuple[Labels, Opened]:
            base = lab.base(kind, mask, quant)
            pairs = [
                (f"Review: {row['text']}\nSentiment:", row["label"] + " " + row["text"][:6])
                for row in review_rows(8, 5)
            ]
            if base.anatomy.kind == "classifier":
                texts = [tuple(base.tokenizer(prompt)["input_ids"]) for prompt, _ in pairs]
                examples = [Encoded(ids, (0,), (number % 2,)) for number, ids in enumerate(texts)]
                for parameter in base.model.get_submodule(base.anatomy.head).parameters():
                    torch.nn.init.normal_(parameter)  # at zero nothing below has a gradient
            else:
                examples = encode_pairs(base.tokenizer, pairs, delimiter=" ", kind=base.anatomy.kind)
            method = lab.opened(base, kind, mask, quant)
            trunk = stack.enter_context(Trunk(base, method.start))
            return Labels(Feed(trunk, examples)), method

        yield make


def step(labels: Labels, method: Opened, rows: int | None) -> tuple[float, Tensor]:
    params = list(method.params.values())
    recorder = Recorder(params)
    options = Train(batch=8, micro_batch=rows, clip=None)
    loss, _ = take_step(params, recorder, labels, list(range(8)), 0.0, options)  # type: ignore[arg-type]
    (grad,) = recorder.grads
    return loss, grad


@cells(without=GATED)  # tests/methods/test_gates.py
def test_law_7_of_masks(kind: str, mask: str, quant: str, objective: Callable[..., Any]) -> None:
    """A batch in parts, and packed; and the gradient is that of autograd through the whole weights."""
    labels, method = objective(kind, mask, quant)
    loss, grad = step(labels, method, None)
    assert grad.abs().max() > 1e-4
    packed = Labels(Feed(labels.feed.trunk, labels.feed.examples, pack=True))
    assert packed.feed.pack == (kind not in FOUND)
    for one, rows in ((labels, 1), (labels, 3), (packed, None)):
        other_loss, other = step(one, method, rows)
        assert other_loss == pytest.approx(loss, abs=1e-5)
        assert (other - grad).abs().max() <= 1e-5 * grad.abs().max()
    if quant != "none":
        return
    method.delta.off()
    with labels.feed.trunk.closed():
        everything = parameters(labels.feed.trunk.base.model)
        whole = {name: everything[name].requires_grad_(True) for name in method.mask}
    part = labels.parts(range(8), None)
    sum(labels.loss(some) / labels.tokens(range(8)) for some in part).backward()
    for name, piece in method.delta.pieces.items():
        dense = whole[name].grad.reshape(-1)[torch.from_numpy(piece.part.entries())]
        assert (piece.of(grad).reshape(-1) - dense).abs().max() <= 1e-5 * grad.abs().max(), name


@cells()
def test_law_7_what_is_kept_changes_no_loss_of_a_mask(
    kind: str, mask: str, quant: str, lab: Lab, tmp_path: Path
) -> None:
    for cache in CACHES:
        facts = adapt(lab.recipe(kind, mask, tmp_path / cache, {"cache": cache, "quant": quant}), False, Listener())
        assert facts["cache"]["place"] == (cache if facts["start_layer"] else "off")
    off, memory, disk = (losses(tmp_path / cache) for cache in ("off", "memory", "disk"))
    assert memory == pytest.approx(off, abs=1e-5)
    assert disk == memory
    assert same_tensors(adapter_tensors(tmp_path / "disk"), adapter_tensors(tmp_path / "memory"))


def test_rare_places_take_two_bytes(lab: Lab) -> None:
    """The laws hold of files with either width."""
    types = {
        mask: {one.dtype for name, one in open_adapter(lab.cell("llama-untied", mask, "none").adapter).header.tensors.items()
               if name.endswith(".entries")}
        for mask in ("entries", "principal")
    }  # fmt: skip
    assert "U8" in types["entries"]
    assert "U16" in types["principal"]


@pytest.mark.parametrize("quant", ["none", "nf4"])
@pytest.mark.parametrize("mask", ["columns", "rows", "blocks", "entries", "words", "norms", "grad", "learned"])
def test_masks_in_sixteen_bits(mask: str, quant: str, lab: Lab, tmp_path: Path) -> None:
    """Changes stay float32 while they learn; attached to a base in bfloat16 they say what was trained."""
    kind = "llama-untied"
    with pytest.MonkeyPatch.context() as patch:
        found = capture(patch)
        resolved = lab.recipe(kind, mask, tmp_path / "run", {"dtype": "bfloat16", "quant": quant})
        adapt(resolved, False, Listener())
    (trained,) = found
    said = logits(trained.model)
    adapter = open_adapter(tmp_path / "run")
    base = load_for(resolved.recipe, [adapter], False, lambda text: None)
    plain = logits(base.model)
    attach(base.model, adapter)
    assert torch.equal(logits(base.model), said)
    assert not torch.equal(said, plain)


# --- what a mask is


@pytest.mark.parametrize("shape", ["columns", "rows", "blocks", "entries"])
@pytest.mark.parametrize("kind", ["llama-untied", "gpt2-tied"])
def test_columns_are_inputs_in_every_family(kind: str, shape: str, lab: Lab) -> None:
    """A column of a layer that stores its weight turned is a row of what is stored."""
    base = lab.base(kind, "columns", "none")
    method = open_method(Settings(name="mask", shape=shape, density=0.1), base.model, base.anatomy)
    turned = kind == "gpt2-tied" and shape in ("columns", "rows")
    told = {"columns": "rows", "rows": "columns"}[shape] if turned else shape
    assert {part.kind for part in method.mask.values()} == {told}
    total = sum(parameters(base.model)[name].numel() for name in method.mask)
    if shape != "blocks":  # of these small tensors one block is all
        assert numel(method.mask) == pytest.approx(0.1 * total, rel=0.02)


@pytest.mark.parametrize("shape", ["columns", "rows", "blocks", "entries"])
def test_a_vector_has_entries_alone(shape: str, lab: Lab) -> None:
    base = lab.base("bert-tied", "words", "none")
    settings = Settings(name="mask", layers="embeddings", shape=shape, density=0.1)
    mask = open_method(settings, base.model, base.anatomy).mask
    assert mask["bert.embeddings.LayerNorm.weight"].kind == "entries"
    assert mask["bert.embeddings.LayerNorm.weight"].numel in (3, 4)
    assert mask["bert.embeddings.word_embeddings.weight"].kind == shape


def test_the_largest_are_chosen_over_all_tensors(lab: Lab) -> None:
    """And each tensor keeps a tenth of its share."""
    base = lab.base("llama-untied", "columns", "none")
    weights = parameters(base.model)
    small = "model.layers.0.self_attn.q_proj.weight"
    with torch.no_grad():
        weights[small].mul_(1e-3)
    settings = Settings(name="mask", select="magnitude", shape="entries", density=0.1)
    mask = open_method(settings, base.model, base.anatomy).mask
    total = sum(weights[name].numel() for name in mask)
    assert numel(mask) == pytest.approx(0.1 * total, rel=0.01)
    assert mask[small].numel == round(0.01 * weights[small].numel())
    least = min(float(weights[name].abs().reshape(-1)[mask[name].index].min()) for name in mask if name != small)
    for name, part in mask.items():
        if name != small:
            rest = weights[name].abs().reshape(-1).clone()
            rest[part.index] = 0
            assert float(rest.max()) <= least + 1e-7


@pytest.mark.parametrize("kind", ["llama-untied", "gpt2-tied"])
@pytest.mark.parametrize("shape", ["rows", "columns", "entries"])
def test_lift_chooses_by_the_nearest_of_low_rank(kind: str, shape: str, lab: Lab) -> None:
    """Each unit's mean |W_3|, by numpy's singular values: none that stays has a lower one than any that is left."""
    base = lab.base(kind, "columns", "none")
    settings = Settings(name="mask", select="lift", rank=3, shape=shape, density=0.2)
    mask, weights = open_method(settings, base.model, base.anatomy).mask, parameters(base.model)
    chosen, left = [], []
    for name, part in mask.items():
        left_vectors, sizes, right = np.linalg.svd(weights[name].detach().numpy(), full_matrices=False)
        near = np.abs(left_vectors[:, :3] * sizes[:3] @ right[:3]).reshape(-1)
        count = units(part.kind, part.size)
        means = near[Part(part.kind, part.size, np.arange(count)).entries()].reshape(count, -1).mean(1)
        if len(part.index) > max(1, round(0.02 * count)):  # not one of those that keep a tenth of their share
            chosen += means[part.index].tolist()
        left += np.delete(means, part.index).tolist()
    assert min(chosen) >= max(left) - 1e-6
    total = sum(int(np.prod(part.size)) for part in mask.values())
    assert numel(mask) == pytest.approx(0.2 * total, rel=0.1)


def test_low_rank_of_a_large_matrix() -> None:
    """Random projections miss hardly more than all singular values; equal seeds miss the same, and chance goes on as it did."""
    weight = torch.randn(150, 220, generator=torch.Generator().manual_seed(0))
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    least, before = sizes[12:].square().sum().sqrt(), torch.get_rng_state()
    near = low_rank(weight, 12, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(low_rank(weight, 12, 5), near)
    assert torch.linalg.matrix_rank(near) == 12
    assert least <= (weight - near).norm() <= 1.01 * least
    halved = 0.5 ** torch.arange(150)
    exact = left[:, :12] * halved[:12] @ right[:12]
    assert (low_rank(left * halved @ right, 12, 5) - exact).abs().max() < 1e-5
    assert torch.equal(low_rank(weight, 150, 5), weight)


def test_equal_seeds_choose_alike(lab: Lab) -> None:
    from ctxtune.methods.motion import Span

    def of(seed: int) -> dict[str, Part]:
        base = lab.base("llama-tied", "columns", "none")
        settings = Settings(name="mask", density=0.1)
        return open_method(settings, base.model, base.anatomy, Span(1, 1, seed)).mask

    one, same, other = of(1), of(1), of(2)
    assert all(one[name].index.tolist() == same[name].index.tolist() for name in one)
    assert any(one[name].index.tolist() != other[name].index.tolist() for name in one)


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
def test_a_mask_of_another_base(kind: str, lab: Lab) -> None:
    """Laid on by force: a size that does not fit is named."""
    other = {"llama-tied": "gpt2-tied", "gpt2-tied": "llama-tied"}[kind]
    adapter = open_adapter(lab.cell(kind, "columns", "none").adapter)
    with pytest.raises(CtxtuneError, match="which the model does not have"):
        held_delta(lab.base(other, "columns", "none").model, adapter)


@pytest.mark.parametrize("kind", HEADLESS_KINDS)
def test_a_classifier_of_zeros_learns_beside_a_mask(kind: str, lab: Lab) -> None:
    cell = lab.cell(kind, "columns", "none")
    assert any("classifier" in name for name in open_adapter(cell.adapter).header.tensors)


# --- what changes cost


def test_a_run_tells_what_its_changes_cost(lab: Lab, tmp_path: Path) -> None:
    """Of what the file holds; a classifier that begins at zero costs nothing. Dear changes are 0, and the file says so."""
    more = {"method.l2": 0.5, "method.shape": "entries", "train.steps": 6, "train.lr": 1e-3}
    for kind, dear in (("llama-tied", 0.02), ("bert-headless", 0.0)):
        facts = adapt(lab.recipe(kind, "columns", tmp_path / kind, more | {"method.l1": dear}), False, Listener())
        stored = load_file(tmp_path / kind / "adapter" / "adapter_model.safetensors")
        numbers = torch.cat([
            tensor.double().reshape(-1)
            for name, tensor in stored.items()
            if name.endswith(".delta") and name.replace(".delta", ".whole") not in stored
        ])  # fmt: skip
        cost = 0.25 * float(numbers.square().sum()) + dear * float(numbers.abs().sum())
        assert facts["penalty"]["value"] == pytest.approx(cost, rel=1e-9)
        assert facts["penalty"]["zeros"] == float((numbers == 0).double().mean())
        assert 0.1 * bool(dear) <= facts["penalty"]["zeros"] < 1
    assert lab.cell("llama-tied", "columns", "none").facts["penalty"] is None


# --- a mask that is chosen again


def moved_entries(run: Path) -> set[tuple[str, int]]:
    """The places that a run's adapter moves."""
    adapter = open_adapter(run)
    mask = read_mask(adapter.path, adapter.header)
    return {(name, int(place)) for name, part in mask.items() for place in part.entries()}


def from_files(*masks: Path, combine: str = "union") -> dict[str, Any]:
    return {
        "method.select": "file",
        "method.masks": list(map(str, masks)),
        "method.combine": combine,
        "method.density": 0.01,
    }


def again(lab: Lab, kind: str, out: Path, more: dict[str, Any]) -> Resolved:
    """A run of a mask that other files tell."""
    return lab.recipe(kind, "file", out, more)


@pytest.mark.parametrize(("kind", "quant"), [("llama-tied", "none"), ("gpt2-tied", "nf4")])
def test_a_mask_is_chosen_again(kind: str, quant: str, lab: Lab, tmp_path: Path) -> None:
    """The same numbers learn anew, from another seed too; the dry run foresees them, and a killed run goes on."""
    first = lab.cell(kind, "columns", "none")
    more = from_files(first.run) | {"quant": quant, "train.seed": 3, "train.steps": 4, "train.save_every": 2}
    foreseen = dry_run(again(lab, kind, tmp_path / "foreseen", more))
    facts = adapt(again(lab, kind, tmp_path / "straight", more), False, Listener())
    assert foreseen["trainable"] == facts["trainable"] == first.facts["trainable"]
    assert moved_entries(tmp_path / "straight") == moved_entries(first.run)
    assert '"mask 1": ' in (tmp_path / "straight" / "recipe.yaml").read_text()
    with pytest.raises(Killed):
        adapt(again(lab, kind, tmp_path / "broken", more), False, Listener(kill_at(3)))
    adapt(again(lab, kind, tmp_path / "broken", more), True, Listener())
    assert_same_run(tmp_path / "broken", tmp_path / "straight")


@pytest.mark.parametrize("combine", ["union", "intersection", "difference"])
def test_several_masks_are_combined(combine: str, lab: Lab, tmp_path: Path) -> None:
    one, two = lab.cell("llama-untied", "rows", "none").run, lab.cell("llama-untied", "blocks", "none").run
    adapt(again(lab, "llama-untied", tmp_path / "run", from_files(one, two, combine=combine)), False, Listener())
    first, second = moved_entries(one), moved_entries(two)
    expected = {"union": first | second, "intersection": first & second, "difference": first - second}[combine]
    assert moved_entries(tmp_path / "run") == expected
    assert expected
    assert expected != first


@pytest.mark.parametrize(
    ("kind", "mask", "quant"),
    [
        ("llama-tied", "columns", "none"),
        ("gpt2-tied", "principal", "none"),
        ("llama-untied", "entries", "nf4"),
        ("gpt2-tied", "contrast", "nf4"),
    ],
)
def test_a_mask_that_is_chosen_only(kind: str, mask: str, quant: str, lab: Lab, tmp_path: Path) -> None:
    """It is that of the run, in a file of its own; the run from the file trains the same numbers to the same ends, where its
    changes cost nothing: what the base minds of them is known of a choice by contrast, and not of a file."""
    cell, out = lab.cell(kind, mask, quant), tmp_path / "mask.safetensors"
    bare: dict[str, Any] = {"data.train": None, "data.prompt": None, "data.answer": None}
    if MASKS[mask].get("select") in BY_LOSS:
        bare = {}
    bare["quant"] = quant
    chosen = choose_only(lab.recipe(kind, mask, out, bare), lambda text: None)
    adapter = open_adapter(out)
    assert moved_entries(out) == moved_entries(cell.run)
    assert (chosen.file, chosen.num_bytes) == (out, out.stat().st_size)
    assert chosen.numbers == cell.facts["trainable"]
    assert all(check.ok for check in verify(adapter, cell.facts["base"]))
    assert adapter.manifest is not None
    assert adapter.manifest.trainable == 0
    assert sum(extent.moved for extent in extents(adapter)) == chosen.numbers
    with pytest.raises(CtxtuneError, match="move, and not by how much"):
        held_delta(lab.base(kind, mask, quant).model, adapter)
    adapt(again(lab, kind, tmp_path / "run", from_files(out) | {"quant": quant}), False, Listener())
    free = cell.run
    if mask == "contrast":
        free = tmp_path / "free"
        adapt(lab.recipe(kind, mask, free, {"quant": quant, "method.ewc": 0.0}), False, Listener())
    assert same_tensors(adapter_tensors(tmp_path / "run"), adapter_tensors(free))


def test_where_a_chosen_mask_is_written(lab: Lab, tmp_path: Path) -> None:
    """To a file that is named, and new; a mask that cannot be chosen leaves none."""
    (tmp_path / "there").write_text("mine")
    for out, said in (
        ("there", "is there already"), ("none/mask", "there is no folder"), ("mask", "this model has no biases there"),
    ):  # fmt: skip
        resolved = lab.recipe("llama-tied", "columns", tmp_path / out, {"method.select": "bias"})
        with pytest.raises(CtxtuneError, match=said) as caught:
            choose_only(resolved, lambda text: None)
        assert caught.value.hint
    assert (tmp_path / "there").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} <= {"there", "home"}


def test_masks_that_do_not_fit(lab: Lab, tmp_path: Path) -> None:
    """Another base, one with other sizes, no mask, nothing left, another file than at first: each in one line."""
    rows, columns = lab.cell("llama-untied", "rows", "none").run, lab.cell("llama-tied", "columns", "none").run
    resolved = resolve_recipe(lab.folders["llama-untied"], lab.rows("train", 22, 0), tmp_path / "layers")
    adapt(resolved, False, Listener())
    cases = {
        "llama-tied": [
            (from_files(rows), "was made on .*llama-untied"), (from_files(tmp_path / "none"), "no adapter at"),
            (from_files(tmp_path / "layers"), "holds no mask, it is a freeze adapter"),
            (from_files(columns, columns, combine="difference"), "their difference chooses nothing"),
            (from_files(columns) | {"inputs": {"mask 1": "0" * 64}}, "has changed since the recipe was written"),
        ],
        "gpt2-tied": [(from_files(rows), "which the model does not have|was made on")],
    }  # fmt: skip
    for kind, some in cases.items():
        for number, (more, said) in enumerate(some):
            with pytest.raises(CtxtuneError, match=said) as caught:
                adapt(again(lab, kind, tmp_path / f"{kind} {number}", more), False, Listener())
            assert "\n" not in str(caught.value)
            assert caught.value.hint
            assert "--force" not in caught.value.hint
            with pytest.raises(CtxtuneError, match=said):
                dry_run(again(lab, kind, tmp_path / "foreseen", more))


@pytest.mark.parametrize("kind", ["llama-untied", "gpt2-tied"])
def test_a_whole_layer_beside_its_codes(kind: str, lab: Lab) -> None:
    """Of a quantised layer all numbers may be chosen as one part; its changes and their gradient are those of all rows."""
    name = {"llama-untied": "model.layers.1.mlp.up_proj.weight", "gpt2-tied": "transformer.h.1.mlp.c_fc.weight"}[kind]
    found = []
    for part in ("whole", "rows"):
        base = lab.base(kind, "columns", "nf4")
        size = (48, 32) if kind == "llama-untied" else (32, 128)
        delta = Delta(base.model, {name: Part(part, size, np.arange(0 if part == "whole" else size[0]))})
        with torch.no_grad():
            delta.flat.copy_(torch.randn(delta.flat.shape, generator=torch.Generator().manual_seed(0)))
        delta.learn(base.anatomy)
        said = base.model(input_ids=token_ids()).logits
        said.square().sum().backward()
        found.append((said.detach(), delta.flat.grad.clone()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], logits(lab.base(kind, "columns", "nf4").model))
