"""The loss of the next token: by hand, in parts, and of documents that share a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from ctxtune.backend.device import Device
from ctxtune.backend.newborn import make_model
from ctxtune.data.corpus import Counts, Part
from ctxtune.data.fill import fill
from ctxtune.objectives import next_token
from ctxtune.objectives.next_token import NextToken
from ctxtune.recipe.pretrain import Pretrain

if TYPE_CHECKING:
    from torch import nn

CPU = Device("cpu", torch.float32, "a test")  # no narrower than the model: nothing is cast
DOCUMENTS = [[5, 6, 7], [8, 9], [10], [11, 12, 13, 14, 15, 16, 17, 18, 19], [20, 21, 22, 23, 24]]


def part() -> Part:
    stream, starts = [], []
    for ids in DOCUMENTS:
        starts.append(len(stream))
        stream += [0, *ids]
    return Part(np.array([*stream, 0]), np.array(starts), Counts(len(DOCUMENTS), len(stream)))


def opened(arch: str, most: int = 8, tie: bool = False) -> tuple[nn.Module, NextToken]:
    model, anatomy = make_model(Pretrain(name="pretrain", arch=arch, depth=2, row=16, tie=tie), 50, 0, seed=1)
    model.double()
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn(param.shape, generator=torch.Generator().manual_seed(param.numel())) * 0.2)
    return model, NextToken(model, anatomy, fill(part(), most), CPU, most_tokens=24)


def alone(model: Any, most: int) -> float:
    """The loss of each segment in a row of its own, by transformers' own logits."""
    total = 0.0
    for ids in DOCUMENTS:
        fed, labels = torch.tensor([0, *ids]), torch.tensor([*ids, 0])
        for first in range(0, len(fed), most):
            logits = model(fed[None, first : first + most]).logits[0]
            total += functional.cross_entropy(logits, labels[first : first + most], reduction="sum").item()
    return total


@pytest.mark.parametrize("most", [8, 16])
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gpt2", "neox"])
def test_rows_that_documents_share_cost_what_they_cost_alone(arch: str, most: int) -> None:
    model, objective = opened(arch, most)
    rows = range(len(objective.rows))
    assert any(objective.rows.batch([row]).apart for row in rows)
    expected = alone(model, most)
    assert sum(objective.losses(rows)) == pytest.approx(expected, abs=1e-10)
    together = sum(objective.loss(some).item() for some in objective.parts(rows, None))
    assert together == pytest.approx(expected, abs=1e-10)
    assert objective.tokens(rows) == part().counts.tokens


@pytest.mark.parametrize("tie", [False, True])
def test_gradients_are_those_of_the_loss_by_hand(tie: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_token, "_LOGITS", 150)  # three rows of logits at once
    model, objective = opened("llama", tie=tie)
    rows = list(range(len(objective.rows)))
    (objective.loss(rows) / 7).backward()  # type: ignore[no-untyped-call]
    ours = {name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None}
    model.zero_grad()
    batch = objective.rows.batch(rows)
    ids, positions = torch.from_numpy(batch.ids), torch.from_numpy(batch.positions)
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.labels).flatten(), reduction="sum")
    (loss / 7).backward()  # type: ignore[no-untyped-call]
    assert set(ours) == {name for name, _ in model.named_parameters()}
    for name, param in model.named_parameters():
        assert param.grad is not None
        torch.testing.assert_close(ours[name], param.grad, rtol=1e-9, atol=1e-11)


def test_a_batch_is_cut_by_tokens_or_by_rows() -> None:
    _, objective = opened("llama")
    rows = list(range(len(objective.rows)))
    assert all(sum(objective.lengths[row] for row in some) <= 24 for some in objective.parts(rows, None))
    assert max(len(some) for some in objective.parts(rows, 1)) == 1
    assert sorted(row for some in objective.parts(rows, None) for row in some) == rows


def test_each_row_has_its_own_loss() -> None:
    _, objective = opened("gpt2")
    rows = list(range(len(objective.rows)))
    told = objective.losses(rows[::-1])[::-1]
    assert told == pytest.approx([objective.losses([row])[0] for row in rows], abs=1e-12)


def test_narrow_types_compute_in_them_and_lose_little() -> None:
    model, objective = opened("llama")
    exact = sum(objective.losses(range(len(objective.rows))))
    model.float()
    narrow = NextToken(model, anatomy_of_llama(), objective.rows, Device("cpu", torch.bfloat16, "a test"), 24)
    rows = list(range(len(narrow.rows)))
    loss = narrow.loss(rows)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.02)
    assert loss.item() != pytest.approx(exact, rel=1e-6)


def anatomy_of_llama() -> Any:
    from ctxtune.backend.anatomy import anatomy_of

    return anatomy_of("llama")
