"""From every block on, and for the answer rows alone, a trunk says exactly what the model's own forward says."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.backend.trunk import Trunk

from ..conftest import FAMILY_KINDS, KINDS, NUM_LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from ctxtune.backend.load import Base

LENGTHS = (12, 7, 4)
ROWS = {
    "one example, one row": ([0], [11]),
    "the last row": ([0, 1, 2], [11, 6, 3]),
    "several rows": ([0, 0, 0, 1, 1, 2], [2, 3, 11, 0, 6, 1]),
    "an example without rows": ([0, 0, 2], [5, 7, 3]),
    "the first row": ([0, 1, 2], [0, 0, 0]),
    "all rows": (
        [b for b, length in enumerate(LENGTHS) for _ in range(length)],
        [t for n in LENGTHS for t in range(n)],
    ),
}

# From every block on; of the wider families from the first, from the middle and behind the last.
DEPTHS = [(kind, start) for kind in FAMILY_KINDS for start in range(0, NUM_LAYERS + 1, 1 if kind in KINDS else 2)]


def padded(base: Base) -> tuple[Tensor, Tensor]:
    """Ids (3, 12) and their mask; what stands behind the shorter examples is no pad token, so that a leak shows."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, len(base.tokenizer), (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return ids, mask


@pytest.fixture
def double(open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Base]:
    def double(kind: str) -> Base:
        base = open_base(kind)
        base.model.double()
        for module in base.model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                # transformers computes it in float32, whatever the model's type
                monkeypatch.setattr(module, "forward", partial(rms_norm, module))
        return base

    return double


def rms_norm(module: Any, hidden: Tensor) -> Tensor:
    """In the type of what comes in; Gemma keeps its weights less one."""
    gemma = type(module).__name__.startswith("Gemma")
    weight = module.weight + 1 if gemma else module.weight
    return torch.nn.functional.rms_norm(hidden, weight.shape, weight, module.eps if gemma else module.variance_epsilon)


def plain(base: Base, ids: Tensor, mask: Tensor | None) -> Tensor:
    logits: Tensor = base.model(input_ids=ids, attention_mask=mask).logits
    return logits


@pytest.mark.parametrize(("kind", "start"), DEPTHS)
def test_rows_are_those_of_the_plain_forward(kind: str, start: int, double: Callable[[str], Base]) -> None:
    base = double(kind)
    ids, mask = padded(base)
    with torch.no_grad():
        whole = plain(base, ids, mask)
        assert whole.dtype is torch.float64
        for given in (mask, None) if base.anatomy.kind == "causal" else (mask,):
            for name, (b, t) in ROWS.items():
                at = torch.tensor(b), torch.tensor(t)
                with Trunk(base, start) as trunk:
                    states = trunk.enter(ids, given) if start else None
                    for kept in (None, states):
                        logits = trunk.logits(trunk.rows(ids, given, *at, kept))
                        assert (logits - whole[at]).abs().max() <= 1e-12, name


@pytest.mark.parametrize(("kind", "start"), DEPTHS)
def test_without_padding(kind: str, start: int, double: Callable[[str], Base]) -> None:
    base = double(kind)
    ids = padded(base)[0]
    at = torch.tensor([0, 0, 1, 2]), torch.tensor([3, 9, 11, 0])
    with torch.no_grad():
        whole = plain(base, ids, None)
        for mask in (None, torch.ones_like(ids)):
            with Trunk(base, start) as trunk:
                logits = trunk.logits(trunk.rows(ids, mask, *at))
            assert (logits - whole[at]).abs().max() <= 1e-12


@pytest.mark.parametrize("name", ["the last row", "several rows", "all rows"])
@pytest.mark.parametrize("start", [0, 1, NUM_LAYERS - 1, NUM_LAYERS])
@pytest.mark.parametrize(
    "kind", ["llama-untied", "gpt2-untied", "bert-tied", "mistral-untied", "phi3-untied", "granite-tied", "falcon-tied"]
)
def test_gradients_are_those_of_the_plain_forward(
    kind: str, start: int, name: str, double: Callable[[str], Base]
) -> None:
    base = double(kind)
    ids, mask = padded(base)
    b, t = (torch.tensor(values) for values in ROWS[name])
    weight = torch.randn(len(b), len(base.tokenizer), generator=torch.Generator().manual_seed(2)).double()
    top = [block for index, block in enumerate(base.anatomy.block_list(base.model)) if index >= start]
    after = [base.model.get_submodule(name) for name in (base.anatomy.norm, base.anatomy.head) if name]
    below = {id(p) for name in base.anatomy.embeddings for p in base.model.get_submodule(name).parameters()}
    params = [p for module in [*top, *after] for p in module.parameters() if id(p) not in below]
    for param in params:
        param.requires_grad_(True)

    def gradients(logits: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((logits * weight).sum(), params)

    expected = gradients(plain(base, ids, mask)[b, t])
    with Trunk(base, start) as trunk:
        states = trunk.enter(ids, mask) if start else None
        found = gradients(trunk.logits(trunk.rows(ids, mask, b, t, states)))
    assert any(grad.abs().max() > 1e-3 for grad in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-12 * max(1.0, float(theirs.abs().max()))


def widths(module: nn.Module) -> list[int]:
    """The number of tokens in each call of a module, appended as it is called."""
    seen: list[int] = []
    module.register_forward_hook(lambda _module, args, _output: seen.append(args[0].shape[1]))
    return seen


@pytest.mark.parametrize("kind", sorted(set(FAMILY_KINDS) - {"opt-tied", "opt-projected-tied", "distilbert-tied"}))
def test_the_last_block_works_on_answer_rows_alone(kind: str, double: Callable[[str], Base]) -> None:
    base = double(kind)
    ids, mask = padded(base)
    blocks = base.anatomy.block_list(base.model)
    last, before = (widths(blocks[i].get_submodule(base.anatomy.mlp[0])) for i in (-1, -2))
    with torch.no_grad(), Trunk(base) as trunk:
        trunk.rows(ids, mask, torch.tensor([0, 1, 2]), torch.tensor([11, 6, 3]))
        assert (last, before) == ([1], [12])
        trunk.rows(ids, mask, *(torch.tensor(values) for values in ROWS["several rows"]))
        assert (last, before) == ([1, 3], [12, 12])
        trunk.rows(ids, mask, *(torch.tensor(values) for values in ROWS["all rows"]))
        assert (last, before) == ([1, 3, 12], [12, 12, 12])


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "bert-tied"])
def test_kept_states_spare_the_lower_blocks(kind: str, double: Callable[[str], Base]) -> None:
    base = double(kind)
    ids, mask = padded(base)
    blocks = base.anatomy.block_list(base.model)
    calls = [widths(block.get_submodule(base.anatomy.mlp[0])) for block in blocks]
    at = torch.tensor([0, 1, 2]), torch.tensor([11, 6, 3])
    with torch.no_grad(), Trunk(base, 2) as trunk:
        states = trunk.enter(ids, mask)
        assert [len(seen) for seen in calls] == [1, 1, 0, 0]
        trunk.rows(ids, mask, *at, states)
    assert [len(seen) for seen in calls] == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "bert-tied"])
def test_blocks_are_back_in_their_places(kind: str, double: Callable[[str], Base]) -> None:
    base = double(kind)
    ids, mask = padded(base)
    blocks = base.anatomy.block_list(base.model)
    own, names = list(blocks), list(base.model.state_dict())
    with torch.no_grad():
        before = plain(base, ids, mask)
    for start in range(NUM_LAYERS + 1):
        with Trunk(base, start):
            assert all(a is not b for a, b in zip(blocks[:start], own[:start], strict=True))
        with pytest.raises(RuntimeError, match="inside"), Trunk(base, start):
            raise RuntimeError("inside")
        with pytest.raises(IndexError), Trunk(base, start) as trunk:  # from within the model
            trunk.rows(ids + len(base.tokenizer), mask, torch.tensor([0]), torch.tensor([3]))
        assert all(a is b for a, b in zip(blocks, own, strict=True))
        assert list(base.model.state_dict()) == names
    with torch.no_grad():
        assert torch.equal(plain(base, ids, mask), before)


def test_a_trunk_works_again_after_an_error(double: Callable[[str], Base]) -> None:
    base = double("llama-tied")
    ids, mask = padded(base)
    at = torch.tensor([0, 1, 2]), torch.tensor([11, 6, 3])
    with torch.no_grad(), Trunk(base, 2) as trunk:
        right = trunk.rows(ids, mask, *at)
        with pytest.raises(IndexError):
            trunk.rows(ids + len(base.tokenizer), mask, *at)
        assert torch.equal(trunk.rows(ids, mask, *at), right)


@pytest.mark.parametrize("start", [0, 2, NUM_LAYERS])
def test_closed(start: int, double: Callable[[str], Base]) -> None:
    base = double("gpt2-tied")
    ids, mask = padded(base)
    blocks = base.anatomy.block_list(base.model)
    own = list(blocks)
    at = torch.tensor([0, 1, 2]), torch.tensor([11, 6, 3])
    with torch.no_grad():
        whole = plain(base, ids, mask)
        with Trunk(base, start) as trunk:
            with trunk.closed():
                assert all(a is b for a, b in zip(blocks, own, strict=True))
                assert torch.equal(plain(base, ids, mask), whole)
            assert (trunk.logits(trunk.rows(ids, mask, *at)) - whole[at]).abs().max() <= 1e-12
            with pytest.raises(RuntimeError, match="inside"), trunk.closed():
                raise RuntimeError("inside")
            assert (trunk.logits(trunk.rows(ids, mask, *at)) - whole[at]).abs().max() <= 1e-12
    assert all(a is b for a, b in zip(blocks, own, strict=True))


def test_nothing_to_enter_below_the_first_block(double: Callable[[str], Base]) -> None:
    base = double("llama-tied")
    with Trunk(base, 0) as trunk, pytest.raises(ValueError, match="no block"):
        trunk.enter(*padded(base))


def test_eager_attention_is_not_narrowed(model_folders: dict[str, object], double: Callable[[str], Base]) -> None:
    """Only sdpa takes the rows' own mask: with another attention every token goes through the last block."""
    from dataclasses import replace

    base = double("llama-tied")
    model: Any = base.model
    model.set_attn_implementation("eager")
    base = replace(base, attention="eager")
    ids, mask = padded(base)
    at = torch.tensor([0, 1, 2]), torch.tensor([11, 6, 3])
    seen = widths(base.anatomy.block_list(base.model)[-1].get_submodule("mlp"))
    with torch.no_grad():
        whole = plain(base, ids, mask)
        with Trunk(base, 1) as trunk:
            logits = trunk.logits(trunk.rows(ids, mask, *at))
    assert (logits - whole[at]).abs().max() <= 1e-12
    assert seen == [12, 12]
