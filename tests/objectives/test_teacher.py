"""The pull of a teacher against plain forward passes, one choice at a time, and torch's own divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.backend import feed as feeds
from ctxtune.backend.feed import Feed, check_kept
from ctxtune.backend.trunk import Trunk
from ctxtune.data.branch import grow
from ctxtune.data.encode import Encoded
from ctxtune.objectives import teacher as objective
from ctxtune.objectives.teacher import Teacher

from ..backend.test_prefix import CAUSAL_KINDS
from ..conftest import FOUND

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base

PROMPTS = ((5, 6, 7, 8, 9), (12, 13, 14), (15, 16, 17, 18, 19, 20))
CHOICES = (((30,), (31,)), ((30, 31, 32), (30, 40), (41,)), ((50, 51), (52, 53)))
TOLD = ((0.7, 0.3), (0.2, 0.5, 0.3), (0.999, 0.001))
KINDS = [kind for kind in CAUSAL_KINDS if kind not in FOUND]


def by_hand(base: Base) -> torch.Tensor:
    """The divergence of each row, by the model's own forward of every choice."""
    found = []
    for prompt, choices, told in zip(PROMPTS, CHOICES, TOLD, strict=True):
        lls = []
        for choice in choices:
            logits = base.model(input_ids=torch.tensor([prompt + choice])).logits[0].double().log_softmax(-1)
            lls.append(sum(logits[len(prompt) - 1 + at, token] for at, token in enumerate(choice)))
        own, said = torch.stack(lls).log_softmax(0), torch.tensor(told).double()
        found.append(torch.nn.functional.kl_div(own, said, reduction="sum"))
    return torch.stack(found)


def pulling(base: Base, trunk: Trunk) -> Teacher:
    examples, answers = [], []
    for prompt, choices in zip(PROMPTS, CHOICES, strict=True):
        requests = [
            Encoded((*prompt, *choice[:-1]), tuple(range(len(prompt) - 1, len(prompt) + len(choice) - 1)), choice)
            for choice in choices
        ]
        tree, places = grow(requests)
        examples.append(tree)
        answers.append([(at, one.labels) for at, one in zip(places, requests, strict=True)])
    return Teacher(Feed(trunk, examples), answers, [torch.tensor(told).double().log().tolist() for told in TOLD])


@pytest.mark.parametrize("rows", [128, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_its_gradient(
    kind: str, rows: int, open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one part, in parts, and with logits that are made a few rows at a time."""
    base = open_base(kind)
    param = next(base.anatomy.block_list(base.model)[1].parameters()).requires_grad_(True)
    expected = by_hand(base)
    (gradient,) = torch.autograd.grad(expected.sum(), param)
    monkeypatch.setattr(objective, "ROWS", rows)
    with Trunk(base) as trunk:
        teacher = pulling(base, trunk)
        for parts in ([[0, 1, 2]], [[2], [0, 1]]):
            loss = torch.stack([teacher.loss(part) for part in parts]).sum()
            assert loss.item() == pytest.approx(expected.sum().item(), rel=1e-5)
            (found,) = torch.autograd.grad(loss, param)
            assert (found - gradient).abs().max() <= 2e-5 * gradient.abs().max()
        assert teacher.losses([2, 0, 1]) == pytest.approx(expected[[2, 0, 1]].tolist(), rel=1e-5, abs=1e-7)
        assert teacher.tokens([0, 2]) == 2
        assert sorted(teacher.parts([0, 1, 2], 1)) == [[0], [1], [2]]


def test_kept_states_of_trees_are_checked(open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree is compared branch by branch with the plain model, which knows no trees; what is wrong is seen."""
    base = open_base("llama-tied")
    with Trunk(base, 2) as trunk:
        feed = pulling(base, trunk).feed
        assert any(one.parents for one in feed.examples)
        states = feed.keep("memory", "sha256:base")
        assert states is not None
        assert check_kept(feed) < 1e-5
        monkeypatch.setattr(feeds, "keep_apart", lambda base, ids, order, end, *rest: (None, None))
        assert check_kept(feed) > 1e-3
