"""The laws of DESIGN section 6 for bits, which say of each weight whether it stays, and what becomes of their files."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ctxtune.adapter.attach import attach
from ctxtune.adapter.bits import moved_of, read_bits
from ctxtune.adapter.diff import difference
from ctxtune.adapter.merge import merge
from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.scale import check_scalable
from ctxtune.adapter.verify import verify
from ctxtune.backend.binary import START
from ctxtune.backend.feed import Feed
from ctxtune.backend.load import load_base
from ctxtune.backend.trunk import Trunk
from ctxtune.cli.main import app
from ctxtune.commands.adapt import adapt
from ctxtune.commands.adapter import show
from ctxtune.commands.choose_only import choose_only
from ctxtune.commands.compose import compose
from ctxtune.commands.dry_run import dry_run
from ctxtune.commands.evaluate import load_for
from ctxtune.commands.export import export
from ctxtune.data.encode import encode_pairs
from ctxtune.engine.loop import take_step
from ctxtune.engine.optimizer import make_optimizer, move, set_rate
from ctxtune.errors import CtxtuneError, RecipeError
from ctxtune.methods.bits import Opened, open_method
from ctxtune.objectives.labels import Labels
from ctxtune.recipe.mask import Mask as Settings
from ctxtune.recipe.schema import Train

from .conftest import CHOICES, PROMPT, Killed, Listener, capture, kill_at, review_rows
from .test_laws import CHILD_LOGITS, Recorder, assert_same_run, bits, child, logits, parameters
from .test_mask_laws import Lab, lab

if TYPE_CHECKING:
    from pathlib import Path

    from ctxtune.backend.load import Base

__all__ = ["lab"]
CELLS = pytest.mark.parametrize(
    ("kind", "quant"), [("llama-tied", "none"), ("gpt2-tied", "none"), ("bert-tied", "none"), ("llama-untied", "nf4")]
)
SETTINGS = Settings(name="mask", learn="bits", layers="last:2")


def base_of(lab: Lab, kind: str, quant: str) -> Base:
    """The base as a run loads it: layers whose bits are learned are not quantised."""
    names = opened(load_base(lab.folders[kind], "cpu")).params
    return load_base(lab.folders[kind], "cpu", quant, names if quant != "none" else ())


def opened(base: Base) -> Opened:
    return open_method(SETTINGS, base.model, base.anatomy)


@CELLS
def test_law_1_bits_change_nothing_before_the_first_step(kind: str, quant: str, lab: Lab) -> None:
    base = base_of(lab, kind, quant)
    expected, before = logits(base.model), {name: one.data_ptr() for name, one in parameters(base.model).items()}
    method = opened(base)
    assert torch.equal(logits(base.model), expected)
    method.bits.off()
    method.bits.off()
    assert {name: one.data_ptr() for name, one in parameters(base.model).items()} == before
    assert torch.equal(logits(base.model), expected)


@CELLS
def test_law_2_each_weight_stays_or_is_0(kind: str, quant: str, lab: Lab) -> None:
    cell, base = lab.cell(kind, "bits", quant), base_of(lab, kind, quant)
    kept = read_bits(open_adapter(cell.adapter))
    before, after = parameters(base.model), parameters(cell.trained.model)
    assert kept.keys() == opened(base_of(lab, kind, quant)).params.keys()
    for name, parameter in before.items():
        if name not in kept:
            assert bits(parameter) == bits(after[name]), name
            continue
        stays = torch.from_numpy(kept[name])
        assert 0.1 < stays.float().mean() < 0.99
        assert torch.equal(after[name].detach(), torch.where(stays, parameter.detach(), 0.0))


@CELLS
def test_law_3_bits_are_read_again(kind: str, quant: str, lab: Lab, tmp_path: Path) -> None:
    """In this process on the base that `eval` loads, and in a fresh one; detached it is the base, bit for bit."""
    cell = lab.cell(kind, "bits", quant)
    adapter = open_adapter(cell.adapter)
    base = load_for(
        lab.recipe(kind, "bits", tmp_path / "run", {"quant": quant}).recipe, [adapter], False, lambda text: None
    )
    before, plain = {name: bits(one) for name, one in parameters(base.model).items()}, logits(base.model)
    taken = attach(base.model, adapter)
    assert torch.equal(logits(base.model), cell.logits)
    assert not torch.equal(cell.logits, plain)
    taken.detach()
    assert {name: bits(one) for name, one in parameters(base.model).items()} == before
    assert torch.equal(logits(base.model), plain)
    out = tmp_path / "fresh.safetensors"
    done = child(CHILD_LOGITS, json.dumps([["cell", str(cell.model), str(cell.adapter)]]), str(out))
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_file(out)["cell"], cell.logits)
    assert all(check.ok for check in verify(adapter))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
def test_law_4_merged_bits_are_the_base_and_zeros(kind: str, dtype: str | None, lab: Lab, tmp_path: Path) -> None:
    """In any type: nothing is rounded that was not before."""
    cell = lab.cell(kind, "bits", "none")
    adapter = open_adapter(cell.adapter)
    merge(cell.model, adapter, tmp_path / "merged", dtype)
    kept = read_bits(adapter)
    plain = {key: value for file in cell.model.glob("*.safetensors") for key, value in load_file(file).items()}
    merged = load_file(next((tmp_path / "merged").glob("*.safetensors")))
    for name, tensor in merged.items():
        own = plain[name] if dtype is None else plain[name].to(torch.bfloat16)
        full = next((one for one in kept if one.endswith(name)), None)
        expected = own if full is None else torch.where(torch.from_numpy(kept[full]), own, 0.0)
        assert torch.equal(tensor, expected), name
    if dtype is None:
        assert torch.equal(logits(load_base(tmp_path / "merged", "cpu").model), cell.logits)


@CELLS
def test_law_5_the_dry_run_foresees_bits(kind: str, quant: str, lab: Lab, tmp_path: Path) -> None:
    cell = lab.cell(kind, "bits", quant)
    foreseen = dry_run(lab.recipe(kind, "bits", tmp_path / "foreseen", {"quant": quant}))
    stored = load_file(cell.adapter / "adapter_model.safetensors")
    for key in ("parameters", "weight_bytes", "start_layer", "steps", "trainable"):
        assert foreseen[key] == cell.facts[key], key
    assert foreseen["adapter_tensors"] == len(stored)
    assert foreseen["adapter_tensor_bytes"] == sum(tensor.nbytes for tensor in stored.values())
    assert 8 * foreseen["adapter_tensor_bytes"] == foreseen["trainable"]  # one bit a weight
    assert cell.facts["start_layer"] > 0


@pytest.mark.parametrize(("kind", "quant", "cache"), [("gpt2-tied", "none", "off"), ("llama-untied", "nf4", "memory")])
def test_law_6_bits_killed_and_resumed(kind: str, quant: str, cache: str, lab: Lab, tmp_path: Path) -> None:
    def run(out: str, resume: bool = False, at: Any = lambda facts: None) -> None:
        more = {"cache": cache, "quant": quant, "train.steps": 6, "train.save_every": 2, "train.eval_every": 2}
        more |= {"data.eval": str(lab.rows("dev", 6, 30)), "train.lr": "auto" if kind == "gpt2-tied" else 3e-3}
        adapt(lab.recipe(kind, "bits", tmp_path / out, more), resume, Listener(at))

    run("straight")
    for step in (1, 4, 5):
        with pytest.raises(Killed):
            run("broken", resume=True, at=kill_at(step))
    run("broken", resume=True)
    assert_same_run(tmp_path / "broken", tmp_path / "straight")


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
def test_law_7_gradients_are_straight_through(kind: str, lab: Lab) -> None:
    """dS = dW' W, W' as it stands with some weights off, by autograd alone; in parts and at once."""
    base, twin = base_of(lab, kind, "none"), base_of(lab, kind, "none")
    pairs = [(f"Review: {row['text']}\nSentiment:", row["label"]) for row in review_rows(8, 5)]
    method, chance = opened(base), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for scores in method.params.values():
            scores.copy_(0.01 * torch.rand(scores.shape, generator=chance))
    examples = encode_pairs(base.tokenizer, pairs, delimiter=" ", kind=base.anatomy.kind)
    own = parameters(twin.model)
    with torch.no_grad():
        for name, scores in method.params.items():
            own[name].mul_(scores > 5e-3)
            own[name].requires_grad_(True)
    with Trunk(twin, method.start) as trunk:
        labels = Labels(Feed(trunk, examples))
        (sum(labels.loss(part) for part in labels.parts(range(8), None)) / labels.tokens(range(8))).backward()
    plain = parameters(base_of(lab, kind, "none").model)
    with Trunk(base, method.start) as trunk:
        for rows in (None, 3):
            recorder = Recorder(list(method.params.values()))
            options = Train(batch=8, micro_batch=rows, clip=None)
            take_step([], recorder, Labels(Feed(trunk, examples)), range(8), 0.0, options)  # type: ignore[arg-type]
            for name, found in zip(method.params, recorder.grads, strict=True):
                gradient = own[name].grad
                assert gradient is not None
                expected = gradient * plain[name].detach()
                assert expected.abs().max() > 0
                assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), name


def test_bits_in_sixteen_bits(lab: Lab, tmp_path: Path) -> None:
    """What the layers say is computed in float32 as long as they learn, and so it is with the adapter on."""
    with pytest.MonkeyPatch.context() as patch:
        found = capture(patch)
        resolved = lab.recipe("llama-untied", "bits", tmp_path / "run", {"dtype": "bfloat16"})
        adapt(resolved, False, Listener())
    said = logits(found[0].model)
    adapter = open_adapter(tmp_path / "run")
    base = load_for(resolved.recipe, [adapter], False, lambda text: None)
    attach(base.model, adapter)
    assert torch.equal(logits(base.model), said)


# --- what becomes of a file of bits


def test_what_a_file_of_bits_says(lab: Lab) -> None:
    """Shown by layer and kind; two are compared by the weights that both switch off."""
    cell = lab.cell("llama-tied", "bits", "none")
    one = open_adapter(cell.adapter)
    kept = read_bits(one)
    off = sum(int((~bits_).sum()) for bits_ in kept.values())
    shown = show(cell.adapter, against=cell.adapter)
    assert shown.numbers == sum(bits_.size for bits_ in kept.values()) == cell.facts["trainable"]
    assert shown.moved is not None
    assert sum(extent.moved for extent in shown.moved) == off
    assert {extent.layer for extent in shown.moved} == {cell.facts["start_layer"], cell.facts["start_layer"] + 1}
    assert all(extent.rms is None for extent in shown.moved)
    assert shown.overlap is not None
    assert all(overlap.jaccard == 1 for overlap in shown.overlap)
    same = difference(one, one)
    assert same.container == "BITS"
    assert not same.compared
    for name, part in moved_of(one).items():
        assert np.array_equal(np.delete(np.arange(kept[name].size), part.index), np.flatnonzero(kept[name]))


def test_what_bits_are_not(lab: Lab, tmp_path: Path) -> None:
    """Forms that cannot hold them are refused in one line that says what can be done."""
    place = lab.cell("llama-tied", "bits", "none").adapter
    adapter = open_adapter(place)
    again = {"method.learn": "changes", "method.layers": "all", "method.select": "file", "method.masks": [str(place)]}
    cases: list[tuple[Any, str]] = [
        (lambda: export(place, "peft", tmp_path / "peft"), "PEFT has no type for weights that are switched off"),
        (lambda: compose([place, place], tmp_path / "sum", None), "it is a mask adapter of the container BITS"),
        (lambda: check_scalable(adapter), "a weight is switched off or it is not"),
        (lambda: show(place, model=str(lab.folders["llama-tied"])), "holds bits, which change by all or nothing"),
        (lambda: dry_run(lab.recipe("llama-tied", "bits", tmp_path / "again", again)), "holds no mask, it is .* of bits"),
        (lambda: choose_only(lab.recipe("llama-tied", "bits", tmp_path / "m", {}), lambda text: None), "learn bits learns"),
    ]  # fmt: skip
    for call, said in cases:
        with pytest.raises(CtxtuneError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert caught.value.hint


def test_bits_as_low_ranks(lab: Lab, tmp_path: Path) -> None:
    """Of as large ranks as are needed they are what they were."""
    cell = lab.cell("llama-tied", "bits", "none")
    found = export(cell.adapter, "lora", tmp_path / "lora", model=str(cell.model))
    assert found.low is not None
    assert found.low.kept == pytest.approx(1)
    base = load_base(cell.model, "cpu")
    attach(base.model, open_adapter(tmp_path / "lora"))
    assert (logits(base.model) - cell.logits).abs().max() < 1e-4 * cell.logits.abs().max()


def test_damaged_bits(lab: Lab, tmp_path: Path) -> None:
    """Bits too few, of another type, of no parameter, and sizes that are none: each named with its file."""
    from safetensors import safe_open

    file = lab.cell("llama-tied", "bits", "none").adapter / "adapter_model.safetensors"
    with safe_open(file, framework="pt") as opened_file:
        metadata = opened_file.metadata()
    tensors = load_file(file)
    first = next(iter(tensors))
    cases: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
        "bytes of bits are needed": ({**tensors, first: tensors[first][:-1]}, metadata),
        "bytes of bits are needed for": ({**tensors, first: tensors[first].to(torch.int32)}, metadata),
        "holds bits of no parameter": ({**tensors, "other.weight.bits": tensors[first]}, metadata),
        "does not say how large": (tensors, {**metadata, "ctxtune_bits": "[1]"}),
    }
    for number, (said, (changed, told)) in enumerate(cases.items()):
        path = tmp_path / f"{number}.safetensors"
        save_file({name: tensor.clone() for name, tensor in changed.items()}, path, metadata=told)
        with pytest.raises(CtxtuneError, match=said) as caught:
            moved_of(open_adapter(path))
        assert str(path) in str(caught.value)
        assert any(not check.ok for check in verify(open_adapter(path)))


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
def test_bits_of_another_base(kind: str, lab: Lab) -> None:
    other = {"llama-tied": "gpt2-tied", "gpt2-tied": "llama-tied"}[kind]
    with pytest.raises(CtxtuneError, match="which the model does not have"):
        attach(load_base(lab.folders[other], "cpu").model, open_adapter(lab.cell(kind, "bits", "none").adapter))


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("llama-tied", {"method.shape": "rows"}, "shape rows has no part in it"),
        ("llama-tied", {"method.density": 0.5}, "density 0.5 has no part in it"),
        ("llama-tied", {"method.l1": 1e-3}, "l1 0.001 has no part in it"),
        ("llama-tied", {"method.select": "l0"}, "select l0 has no part in it"),
        ("llama-tied", {"method.layers": "last:1+embeddings"}, "is no linear layer of a block"),
        ("bert-headless", {}, "a classifier that begins at zero has nothing to switch off"),
    ],
)
def test_bits_that_cannot_be_learned(kind: str, more: dict[str, Any], said: str, lab: Lab, tmp_path: Path) -> None:
    """By the run and by the dry run, in one line."""
    for command in (dry_run, lambda resolved: adapt(resolved, False, Listener())):
        with pytest.raises(RecipeError, match=said) as caught:
            command(lab.recipe(kind, "bits", tmp_path / "run", more))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "title", "row"),
    [
        (["--learn", "bits", "--layers", "last:2"], "bits of last:2", r"switched off.*[\d,]+ of [\d,]+ weights"),
        (["--select", "l0", "--density", "10%"], "l0 columns", r"chosen.* of [\d,]+ numbers, by [\d,]+ gates"),
    ],
)
def test_what_is_learned_on_the_command_line(asked: list[str], title: str, row: str, lab: Lab, tmp_path: Path) -> None:
    """The result says what was learned; `adapter show` draws what of each layer it moves."""
    run = tmp_path / "run"
    task = ["--model", str(lab.folders["llama-tied"]), "--train", str(lab.rows("train", 22, 0)), "--prompt", PROMPT]
    task += [
        "--answer",
        "{{ label }}",
        "--choices",
        ",".join(CHOICES),
        "--batch",
        "8",
        "--lr",
        "3e-2",
        "--out",
        str(run),
    ]
    done = CliRunner().invoke(app, ["mask", *task, *asked, "--set", "train.steps=4", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert title in done.stdout
    assert re.search(row, done.stdout)
    shown = CliRunner().invoke(app, ["adapter", "show", str(run)])
    assert re.search(r"layer 3: .*up \d", shown.stdout)


def test_a_step_of_the_scores(lab: Lab) -> None:
    """Adam's direction by a second moment that all have in common, by its formulas; decay is decoupled."""
    base = base_of(lab, "llama-tied", "none")
    method = opened(base)
    optimizer, chance = make_optimizer(method.params, Train(weight_decay=0.5)), torch.Generator().manual_seed(0)
    expected = {name: param.detach().double() for name, param in method.params.items()}
    first = {name: torch.zeros_like(value) for name, value in expected.items()}
    common, numbers = 0.0, sum(value.numel() for value in expected.values())
    for step in (1, 2, 3):
        gradients = {name: torch.randn(value.shape, generator=chance).pow(3) for name, value in expected.items()}
        move(method.params, optimizer, method.shares(0, 0))
        for name, param in method.params.items():
            param.grad = gradients[name].to(param.dtype)
        set_rate(optimizer, 1e-3)
        optimizer.step()
        method.penalty.after(optimizer, 1.0)
        common = (
            0.999 * common + 0.001 * sum(float(one.double().square().sum()) for one in gradients.values()) / numbers
        )
        for name, gradient in gradients.items():
            first[name] = 0.9 * first[name] + 0.1 * gradient.double()
            size = (common / (1 - 0.999**step)) ** 0.5
            expected[name] = (
                expected[name] + 5e-4 * (START - expected[name]) - 1e-3 * first[name] / (1 - 0.9**step) / size
            )
    for name, param in method.params.items():
        assert (param.detach().double() - expected[name]).abs().max() < 1e-7
    off = sum(int((value <= 5e-3).sum()) for value in expected.values())
    assert method.penalty.facts() == {"weights": numbers, "off": off}
    assert 0 < off < numbers / 10
