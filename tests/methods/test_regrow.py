"""Units of a mask that give way to others, against autograd through all weights at once and AdamW's formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ctxtune.backend.load import load_base
from ctxtune.backend.mask import Part, units
from ctxtune.engine.optimizer import make_optimizer, set_rate
from ctxtune.methods.mask import Opened, open_method
from ctxtune.methods.motion import ENDLESS
from ctxtune.recipe.mask import Mask
from ctxtune.recipe.schema import Train

from .test_scoring import Run

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ctxtune.backend.load import Base

RATE = 1e-2


def opened(base: Base, run: Run, **settings: Any) -> Opened:
    asked = Mask(name="mask", select="grad", density=0.2, score_batches=2, regrow=0.5, **settings)
    return open_method(asked, base.model, base.anatomy, replace(ENDLESS, steps=10, backward=run.backward))


def trained(method: Opened, run: Run, steps: int) -> torch.optim.Optimizer:
    """An optimiser after some steps."""
    optimizer = make_optimizer(method.params, Train())
    set_rate(optimizer, RATE)
    for step in range(steps):
        run.backward(step, 1, None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return optimizer


def as_matrix(values: Tensor, part: Part) -> Tensor:
    return values.reshape(len(part.index), -1)


@pytest.mark.parametrize(("shape", "clip"), [("entries", None), ("columns", 0.01), ("rows", 1e9)])
def test_who_gives_way_and_who_grows(shape: str, clip: float | None, model_folders: dict[str, Path]) -> None:
    base, fresh, dense = (load_base(model_folders["llama-untied"], "cpu") for _ in range(3))
    run = Run(base)
    method = opened(base, run, shape=shape, regrow_every=4, regrow_batches=2)
    assert method.regrow is not None
    optimizer = trained(method, run, 4)
    before = dict(method.mask)
    values = {name: value.clone() for name, value in method.delta.values().items()}
    moments = {key: optimizer.state[method.delta.flat][key].clone() for key in ("exp_avg", "exp_avg_sq")}
    method.delta.write()
    with torch.no_grad():
        for name in before:
            dense.model.get_parameter(name).copy_(base.model.get_parameter(name))
    batches = [*run.batches.epoch(0), *run.batches.epoch(1)][4:6]
    gradients = run.gradients(dense, list(before), batches)
    sums = {name: gradients[0][name] + gradients[1][name] for name in before}
    norm = sum(float((sums[name].reshape(-1)[part.entries()] / 2).square().sum()) for name, part in before.items())
    cut = 1.0 if clip is None else min(1.0, clip / norm**0.5)
    method.regrow.after(3, optimizer, run.backward, clip)
    assert all(np.array_equal(method.mask[name].index, part.index) for name, part in before.items())  # not yet
    method.regrow.after(4, optimizer, run.backward, clip)
    method.delta.write()
    state, exchanged, gone = optimizer.state[method.delta.flat], 0, 0
    for name, part in before.items():
        now, many = method.mask[name], units(part.kind, part.size)
        count = min(round(0.5 * 0.6 * len(part.index)), many - len(part.index))
        if not count:
            assert np.array_equal(now.index, part.index)
            continue
        exchanged += count
        sizes = as_matrix(values[name], part).abs().mean(1)
        stay = np.sort(part.index[sizes.argsort()[count:].numpy()])
        places = torch.from_numpy(Part(part.kind, part.size, np.arange(many)).entries())
        asked = sums[name].abs().reshape(-1)[places].view(many, -1).mean(1)
        asked[stay] = -1
        grown = np.sort(asked.argsort(descending=True)[:count].numpy())
        assert set(now.index) == {*stay, *grown}
        assert len(now.index) == len(part.index)
        kept, new = np.isin(now.index, stay), np.isin(now.index, grown)
        piece, old = method.delta.pieces[name], np.isin(part.index, stay)
        for vector, earlier in ((method.delta.flat.detach(), values[name]), *(
            (state[key], method.delta.pieces[name].of(moments[key])) for key in moments
        )):  # fmt: skip
            assert torch.equal(as_matrix(piece.of(vector), now)[kept], as_matrix(earlier, part)[old])
        assert not as_matrix(piece.of(method.delta.flat.detach()), now)[new].any()
        mean = sums[name].reshape(-1)[Part(part.kind, part.size, grown).entries()].view(count, -1) * cut / 2
        first, second = (as_matrix(piece.of(state[key]), now)[new] for key in ("exp_avg", "exp_avg_sq"))
        assert torch.allclose(first, mean * (1 - 0.9**4), rtol=1e-3, atol=1e-9)
        assert torch.allclose(second, mean.square() * (1 - 0.999**4), rtol=1e-3, atol=1e-12)
        left = np.setdiff1d(part.entries(), now.entries())
        own, weight = (one.model.get_parameter(name).detach().reshape(-1) for one in (fresh, base))
        gone += len(left)
        assert torch.equal(weight[left], own[left])
        outside = np.setdiff1d(np.arange(weight.numel()), now.entries())
        assert torch.equal(weight[outside], own[outside])
    assert exchanged > 20
    assert gone > 20


def test_a_grown_number_begins_with_a_whole_step(model_folders: dict[str, Path]) -> None:
    """With the gradient that it grew for, AdamW's next step is the rate, as a first one is."""
    base = load_base(model_folders["gpt2-tied"], "cpu")
    run = Run(base)
    method = opened(base, run, shape="entries", regrow_every=1, regrow_batches=1)
    assert method.regrow is not None
    optimizer, before = trained(method, run, 2), dict(method.mask)
    method.regrow.after(2, optimizer, run.backward, None)
    new = torch.cat([
        torch.from_numpy(~np.isin(part.index, before[name].index)) for name, part in method.mask.items()
    ])  # fmt: skip
    state, flat = optimizer.state[method.delta.flat], method.delta.flat
    assert 0 < new.sum() < len(new)
    mean = state["exp_avg"][new] / (1 - 0.9**2)
    flat.grad = torch.zeros_like(flat)
    flat.grad[new] = mean
    optimizer.step()
    large = mean.abs() > 1e-6
    assert torch.allclose(flat.detach()[new][large], -RATE * mean[large].sign(), rtol=1e-2)


def test_a_state_is_taken_up_again(model_folders: dict[str, Path]) -> None:
    """Another opened mask that is given an earlier state, and its changes, says the same."""
    said, tokens = [], torch.arange(5, 21)[None]
    one, other = (load_base(model_folders["llama-tied"], "cpu") for _ in range(2))
    run = Run(one)
    method, again = opened(one, run, regrow_every=1), opened(other, Run(other), regrow_every=1)
    assert method.regrow is not None
    assert again.regrow is not None
    method.regrow.after(3, trained(method, run, 3), run.backward, 1.0)
    run.backward(3, 1, None)
    with torch.no_grad():
        method.delta.flat -= RATE * method.delta.flat.grad
        again.delta.flat.fill_(0.1)
        said.append(other.model(input_ids=tokens).logits)
        again.regrow.restore(method.regrow.state())
        again.delta.flat.copy_(method.delta.flat)
        said += [base.model(input_ids=tokens).logits for base in (one, other)]
    assert torch.equal(said[1], said[2])
    assert not torch.equal(said[0], said[1])
    for name, weight in one.model.named_parameters():
        assert torch.equal(weight, other.model.get_parameter(name))
    again.delta.off()
    untouched = load_base(model_folders["llama-tied"], "cpu")
    for name, weight in other.model.named_parameters():
        assert torch.equal(weight, untouched.model.get_parameter(name))
