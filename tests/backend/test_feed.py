"""Examples through a trunk: whole, in parts, and from kept states, always the same logits in their right places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.backend import feed as feed_file
from ctxtune.backend.cache import States
from ctxtune.backend.feed import Feed, check_kept, is_exact, plain_hidden
from ctxtune.backend.stores import list_stores
from ctxtune.backend.trunk import Trunk
from ctxtune.data.encode import Encoded

from ..conftest import FAMILY_KINDS, NUM_LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base

MARK = "sha256:base"


def examples(base: Base, count: int = 9) -> list[Encoded]:
    """Of 3 to 20 tokens, with one to three answer rows each."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for i in range(count):
        length = 3 + (7 * i) % 18
        ids = torch.randint(5, len(base.tokenizer), (length,), generator=generator).tolist()
        rows = tuple(range(length - 1 - i % 3, length))
        found.append(Encoded(tuple(ids), rows, tuple(ids[row - 1] for row in rows)))
    return found


@pytest.mark.parametrize("start", [0, 2, NUM_LAYERS])
@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_states_labels_and_logits(kind: str, start: int, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    some = examples(base)
    with torch.no_grad(), Trunk(base, start) as trunk:
        feed = Feed(trunk, some)
        feed.keep("memory", MARK)
        part = [4, 0, 7, 2]
        hidden, labels = feed.hidden(part), feed.labels(part)
        model: Any = base.model
        assert hidden.shape == (len(labels), model.get_output_embeddings().in_features)
        assert labels.tolist() == [label for i in part for label in some[i].labels]
        logits = trunk.logits(hidden)
        place = 0
        for i in part:
            with trunk.closed():
                alone = base.model(input_ids=torch.tensor([some[i].ids])).logits[0, list(some[i].rows)]
            torch.testing.assert_close(logits[place : place + len(alone)], alone, rtol=0, atol=2e-6)
            place += len(alone)
        assert place == len(logits)
        torch.testing.assert_close(plain_hidden(feed, part), hidden, rtol=0, atol=2e-6)


def test_logits_come_in_chunks(open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_file, "ROWS", 4)
    base = open_base("llama-untied")
    with torch.no_grad(), Trunk(base, 1) as trunk:
        feed = Feed(trunk, examples(base))
        part = [0, 1, 2, 3, 4]
        whole = trunk.logits(feed.hidden(part))
        chunks = list(feed.logits_in_chunks(part))
        assert [(rows.start, rows.stop) for _, rows in chunks] == [(0, 4), (4, 8), (8, 9)]
        assert all(logits.dtype is torch.float32 for logits, _ in chunks)
        torch.testing.assert_close(torch.cat([logits for logits, _ in chunks]), whole, rtol=0, atol=1e-6)


def test_strides_keep_the_order_and_the_states(
    open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a gradient a part goes through the layers some tokens at a time: in its order, whole examples, same numbers."""
    base = open_base("llama-untied")
    with torch.no_grad(), Trunk(base, 1) as trunk:
        feed = Feed(trunk, examples(base))
        part = [8, 0, 5, 2, 3]
        whole = feed.hidden(part)
        monkeypatch.setattr(type(base.device), "stride", 24)
        strides = list(feed._strides(part))
        assert [i for some in strides for i in some] == part
        assert len(strides) > 1
        assert all(len(some) == 1 or max(feed.lengths[i] for i in some) * len(some) <= 24 for some in strides)
        torch.testing.assert_close(feed.hidden(part), whole, rtol=0, atol=2e-6)


def test_parts_hold_every_example_once(open_base: Callable[[str], Base]) -> None:
    base = open_base("gpt2-tied")
    with Trunk(base) as trunk:
        feed = Feed(trunk, examples(base, 40))
        batch = [3, 39, 0, 17, 8, 21, 4]
        for rows in (None, 1, 2, 3, 8):
            parts = feed.parts(batch, rows)
            assert sorted(i for part in parts for i in part) == sorted(batch)
            if rows is not None:
                assert [len(part) for part in parts] == [rows] * (len(batch) // rows) + [len(batch) % rows] * bool(
                    len(batch) % rows
                )


def test_parts_fit_the_memory(open_base: Callable[[str], Base]) -> None:
    """At most 2048 tokens with their padding; fewer where many of them are answer rows, all of whose logits are kept."""
    base = open_base("llama-tied")
    few = [Encoded((5,) * 60, (59,), (5,))] * 100
    many = [Encoded((5,) * 60, tuple(range(60)), (5,) * 60)] * 100
    with Trunk(base) as trunk:
        assert [len(part) for part in Feed(trunk, few).parts(range(100))] == [34, 34, 32]
        assert max(len(part) for part in Feed(trunk, many).parts(range(100))) == feed_file.ROWS // 60
        with torch.no_grad():
            assert [len(part) for part in Feed(trunk, many).parts(range(100))] == [34, 34, 32]


def test_an_example_larger_than_a_part_stands_alone(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    long = [Encoded((5,) * 3000, (2999,), (5,)), Encoded((5,) * 10, (9,), (5,))]
    with Trunk(base) as trunk:
        assert Feed(trunk, long).parts([1, 0]) == [[0], [1]]


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "bert-tied"])
def test_kept_states_are_those_that_enter_the_block(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    some = examples(base)
    entered: list[torch.Tensor] = []
    block = base.anatomy.block_list(base.model)[2]
    hook = block.register_forward_pre_hook(lambda _module, args: entered.append(args[0]))
    with torch.no_grad():
        for example in some:
            base.model(input_ids=torch.tensor([example.ids]))
        hook.remove()
        with Trunk(base, 2) as trunk:
            states = Feed(trunk, some).keep("memory", MARK)
    assert states is not None
    assert states.data.shape == (sum(len(example.ids) for example in some), base.width)
    torch.testing.assert_close(states.data, torch.cat([one[0] for one in entered]), rtol=0, atol=2e-6)


def test_nothing_is_kept_where_nothing_is_frozen_below(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    with Trunk(base, 0) as trunk:
        assert Feed(trunk, examples(base)).keep("disk", MARK) is None
    with Trunk(base, 2) as trunk:
        assert Feed(trunk, examples(base)).keep("off", MARK) is None
    assert not list_stores()


def test_a_store_belongs_to_model_layer_and_tokens(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    some = examples(base)

    def place(start: int, of: list[Encoded], mark: str) -> str:
        with Trunk(base, start) as trunk:
            states = Feed(trunk, of).keep("disk", mark)
            assert states is not None
            return states.place

    assert place(2, some, MARK) == "disk"
    assert place(2, some, MARK) == "kept"
    assert place(3, some, MARK) == "disk"
    assert place(2, some, "sha256:other") == "disk"
    assert place(2, some[::-1], MARK) == "disk"
    assert place(2, [*some[:-1], Encoded((7, *some[-1].ids[1:]), some[-1].rows, some[-1].labels)], MARK) == "disk"
    # The same tokens cut in two: as many numbers, other states.
    ids = tuple(range(5, 15))
    for cut in (4, 6):
        assert place(2, [Encoded(ids[:cut], (1,), (5,)), Encoded(ids[cut:], (1,), (5,))], MARK) == "disk"
    # What is asked of the tokens does not change what the frozen layers say of them.
    assert place(2, [Encoded(one.ids, (0,), (5,)) for one in some], MARK) == "kept"


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_the_check_passes_what_is_right(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    with Trunk(base, 2) as trunk:
        feed = Feed(trunk, examples(base))
        feed.keep("memory", MARK)
        assert check_kept(feed) < 1e-5
        assert is_exact(check_kept(feed))


@pytest.mark.parametrize("wrong", ["longest", "shortest", "a layer too low", "not a number"])
def test_the_check_sees_what_is_wrong(wrong: str, open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    some = examples(base)
    with Trunk(base, 2) as trunk:
        feed = Feed(trunk, some)
        states = feed.keep("memory", MARK)
        assert states is not None
        if wrong == "a layer too low":
            with trunk.closed(), Trunk(base, 1) as lower:
                other = Feed(lower, some).keep("memory", MARK)
            assert other is not None
            feed.states = States(other.data, states.offsets, "", "memory")
        else:
            at = (max if wrong == "longest" else min)(range(len(some)), key=feed.lengths.__getitem__)
            rows = slice(states.offsets[at], states.offsets[at + 1])
            states.data[rows] = torch.nan if wrong == "not a number" else states.data[rows] * 1.1 + 0.1
        assert not is_exact(check_kept(feed))


def test_one_example(open_base: Callable[[str], Base]) -> None:
    base = open_base("bert-tied")
    with Trunk(base, 2) as trunk:
        feed = Feed(trunk, examples(base, 1))
        feed.keep("memory", MARK)
        assert is_exact(check_kept(feed))


def test_a_base_without_pad_token(open_base: Callable[[str], Base]) -> None:
    base = open_base("gpt2-tied")
    assert base.tokenizer.pad_token_id is None
    with Trunk(base) as trunk:
        assert Feed(trunk, examples(base)).pad == 0
