"""Every depth of a model against the states that transformers gives, one example at a time, and against the trunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.backend import depths
from ctxtune.backend.depths import fitting, run_depths, start_from
from ctxtune.backend.feed import Feed
from ctxtune.backend.trunk import Trunk
from ctxtune.data.encode import encode_pairs

from ..conftest import KINDS, NUM_LAYERS, review_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base
    from ctxtune.data.encode import Encoded


def examples(base: Base) -> list[Encoded]:
    pairs = [(f"Review: {row['text']}\nSentiment:", row["label"]) for row in review_rows(6)]
    return list(encode_pairs(base.tokenizer, pairs, delimiter=" ", kind=base.anatomy.kind))


@pytest.mark.parametrize("kind", [*KINDS, "opt-projected-tied"])
def test_every_depth_of_every_example(
    kind: str, open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depths, "_TOKENS", 48)  # several passes, with padding
    base = open_base(kind)
    with Trunk(base, 0) as trunk:
        feed = Feed(trunk, examples(base))
        found = run_depths(feed, [0, 2, 3])
    last = base.width // 2 if kind == "opt-projected-tied" else base.width
    assert [answer.shape for answer in found.answers] == [(6, base.width)] * NUM_LAYERS + [(6, last)]
    assert sorted(found.cuts) == [2, 3]
    for i, example in enumerate(feed.examples):
        with torch.no_grad():
            states = base.model(input_ids=torch.tensor([example.ids]), output_hidden_states=True).hidden_states
        for depth in range(NUM_LAYERS + 1):
            assert found.answers[depth][i] == pytest.approx(states[depth][0, example.rows[0]], abs=2e-5)
        for cut, kept in found.cuts.items():
            assert kept.batch([i], [(0, 0)], "cpu")[0] == pytest.approx(states[cut][0], abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_feed_starts_from_its_cut(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    with Trunk(base, 0) as trunk:
        found = run_depths(Feed(trunk, examples(base)), [0, 2])
    for start in (0, 2):
        with Trunk(base, start) as trunk:
            feed = Feed(trunk, examples(base))
            start_from(feed, found)
            assert not trunk.plain
            assert (feed.states is None) == (start == 0)
            with torch.no_grad():
                kept = feed.hidden(range(6))
                feed.states = None
                assert (kept - feed.hidden(range(6))).abs().max() < 1e-5 * kept.abs().max()


def test_states_that_are_not_the_models_are_not_used(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    with Trunk(base, 0) as trunk:
        found = run_depths(Feed(trunk, examples(base)), [2])
    found.cuts[2].data.add_(0.5)
    with Trunk(base, 2) as trunk:
        feed = Feed(trunk, examples(base))
        start_from(feed, found)
        assert trunk.plain
        assert feed.states is None


def test_as_many_rows_as_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depths, "available_memory", lambda: 4 * 1000)
    assert fitting([10] * 9, width=5, num_cuts=1) == 5  # 200 bytes each, 1,000 in all
    assert fitting([10] * 9, width=5, num_cuts=5) == 1
    assert fitting([10] * 9, width=50, num_cuts=5) == 1
    assert fitting([10] * 3, width=5, num_cuts=1) == 3
