"""Examples that share a row of tokens say what each says alone, in every family; one never sees another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.backend import feed as feed_file
from ctxtune.backend.feed import Feed, check_kept, is_exact
from ctxtune.backend.trunk import Trunk
from ctxtune.data.encode import Encoded
from ctxtune.data.pack import packed
from ctxtune.objectives.labels import Labels

from ..conftest import FAMILY_KINDS, FOUND, NUM_LAYERS, WINDOW
from .test_trunk import double  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ctxtune.backend.load import Base

LENGTHS = (13, 4, 9, 1, 7, 6, 3, 11)  # some longer than every sliding window
PACKED_KINDS = [kind for kind in FAMILY_KINDS if kind not in FOUND]
STARTS = (0, 2, NUM_LAYERS)


def examples(base: Base, lengths: Sequence[int] = LENGTHS) -> list[Encoded]:
    """One to three answer rows each."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for i, length in enumerate(lengths):
        ids = torch.randint(5, len(base.tokenizer), (length,), generator=generator).tolist()
        rows = tuple(range(max(0, length - 1 - i % 3), length))
        found.append(Encoded(tuple(ids), rows, tuple(ids[row - 1] for row in rows)))
    return found


def widths(base: Base) -> list[tuple[int, ...]]:
    """The shape (B, T) of every batch of tokens that is embedded from here on."""
    seen: list[tuple[int, ...]] = []
    words = base.model.get_input_embeddings()  # type: ignore[operator]
    words.register_forward_hook(lambda _module, args, _output: seen.append(tuple(args[0].shape)))
    return seen


def alone(base: Base, some: Sequence[Encoded]) -> list[float]:
    """The summed loss of each example by the model's own plain forward, each run by itself."""
    found = []
    for one in some:
        logits = base.model(input_ids=torch.tensor([one.ids])).logits[0, list(one.rows)]
        found.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(one.labels), reduction="sum")))
    return found


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_packed_losses_are_those_of_each_example_alone(kind: str, start: int, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    some = examples(base)
    assert max(LENGTHS) > 2 * WINDOW
    with torch.no_grad():
        expected = alone(base, some)
        for where in ("off", "memory"):
            with Trunk(base, start) as trunk:
                feed = Feed(trunk, some, pack=True)
                feed.keep(where, "mark")
                shapes = widths(base)
                assert Labels(feed).losses(range(len(some))) == pytest.approx(expected, abs=1e-5)
                # Behind the last block kept states go to the head at once.
                assert len(shapes) == (0 if feed.states and start == NUM_LAYERS else 1)
                assert all(rows <= len(some) // 2 for rows, _ in shapes)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_packed_states_in_float64(kind: str, start: int, double: Callable[[str], Base]) -> None:  # noqa: F811
    base = double(kind)
    some = examples(base)
    with torch.no_grad():
        whole = [base.model(input_ids=torch.tensor([one.ids])).logits[0, list(one.rows)] for one in some]
        for part in ([0, 1, 2, 3, 4, 5, 6, 7], [6, 3, 0, 5], [1, 1, 7]):
            expected = torch.cat([whole[i] for i in part])
            with Trunk(base, start) as trunk:
                logits = trunk.logits(Feed(trunk, some, pack=True).hidden(part))
            assert logits.dtype is torch.float64
            assert (logits - expected).abs().max() <= 1e-12


def states_by_example(base: Base, some: Sequence[Encoded]) -> list[Tensor]:
    """The answer rows' final states, all examples in one packed part."""
    with torch.no_grad(), Trunk(base) as trunk:
        hidden = Feed(trunk, some, pack=True).hidden(range(len(some)))
    return list(hidden.split([len(one.rows) for one in some]))


def changed(one: Encoded) -> Encoded:
    """Another text of the same length."""
    return Encoded(tuple(token ^ 1 for token in one.ids), one.rows, one.labels)


@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_another_text_of_one_example_changes_no_other_at_all(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    some = examples(base)
    before = states_by_example(base, some)
    for i in (0, 1, 5):
        after = states_by_example(base, [changed(one) if j == i else one for j, one in enumerate(some)])
        for j in range(len(some)):
            assert torch.equal(after[j], before[j]) == (i != j)


@pytest.mark.parametrize("kind", ["llama-tied", "qwen3-sliding-tied", "opt-tied", "bert-tied"])
def test_what_is_not_kept_apart_is_seen(
    kind: str, open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = open_base(kind)
    some = examples(base)
    with Trunk(base) as trunk:
        assert is_exact(check_kept(Feed(trunk, some, pack=True)))
    monkeypatch.setattr(feed_file, "keep_apart", lambda *_: (None, None))
    before = states_by_example(base, some)
    after = states_by_example(base, [changed(one) for one in some[:4]] + some[4:])
    assert any(not torch.equal(after[j], before[j]) for j in range(4, len(some)))
    with Trunk(base) as trunk:
        assert not is_exact(check_kept(Feed(trunk, some, pack=True)))
        assert is_exact(check_kept(Feed(trunk, some)))


def test_a_pad_in_a_text_has_the_place_of_pads_for_roberta(double: Callable[[str], Base]) -> None:  # noqa: F811
    """RoBERTa counts the tokens that are no pads, wherever these stand."""
    base = double("roberta-tied")
    pad = base.tokenizer.pad_token_id
    assert pad == 1
    some = [Encoded((9, pad, pad, 8, 7), (3, 4), (6, 5)), Encoded((pad, 12, 13), (2,), (6,)), *examples(base)[:2]]
    with torch.no_grad():
        expected = [base.model(input_ids=torch.tensor([one.ids])).logits[0, list(one.rows)] for one in some]
        with Trunk(base) as trunk:
            feed = Feed(trunk, some, pack=True)
            assert feed._padded(range(4), packed).shared
            assert (trunk.logits(feed.hidden(range(4))) - torch.cat(expected)).abs().max() <= 1e-12


def test_a_part_without_short_examples_has_its_mask_free_path(
    open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of one example each are run as without packing, to the bit."""
    monkeypatch.setattr(feed_file, "keep_apart", None)
    base = open_base("llama-tied")
    some = examples(base, (9, 9, 9))
    with torch.no_grad(), Trunk(base) as trunk:
        assert torch.equal(Feed(trunk, some, pack=True).hidden([0, 1, 2]), Feed(trunk, some).hidden([0, 1, 2]))


@pytest.mark.parametrize("kind", FOUND)
def test_a_family_found_by_structure_is_not_packed(kind: str, open_base: Callable[[str], Base]) -> None:
    """Nobody knows what keeps its examples apart."""
    base = open_base(kind)
    some = examples(base)
    with torch.no_grad(), Trunk(base) as trunk:
        assert not Feed(trunk, some, pack=True).pack
        assert torch.equal(Feed(trunk, some, pack=True).hidden([0, 1, 2]), Feed(trunk, some).hidden([0, 1, 2]))
