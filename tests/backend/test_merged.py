"""Attention to a shared prefix and to a text's own tokens, merged: one softmax, in every family that can."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.backend import feed as feed_file
from ctxtune.backend.merged import Unmerged, attending_to, merge
from ctxtune.backend.prefix import Prefix, read_prefix
from ctxtune.backend.trunk import Trunk
from ctxtune.evals.choice import Requests, common_prefix

from .test_prefix import groups

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base


@pytest.mark.parametrize("groups_of_heads", [1, 2, 6])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_it_is_one_softmax_over_both(groups_of_heads: int, scaling: float | None) -> None:
    torch.manual_seed(0)
    texts, heads, tokens, before, width = 3, 6, 5, 11, 8
    query = torch.randn(texts, heads, tokens, width, dtype=torch.float64)
    shared = tuple(torch.randn(1, groups_of_heads, before, width, dtype=torch.float64) for _ in range(2))
    own = tuple(torch.randn(texts, groups_of_heads, tokens, width, dtype=torch.float64) for _ in range(2))
    mask = torch.ones(tokens, tokens, dtype=torch.bool).tril().expand(texts, 1, -1, -1)
    keys, values = (
        torch.cat([front.expand(texts, -1, -1, -1), text], 2).repeat_interleave(heads // groups_of_heads, 1)
        for front, text in zip(shared, own, strict=True)
    )
    scores = query @ keys.transpose(2, 3) * (scaling or width**-0.5)
    scores[..., before:] = scores[..., before:].masked_fill(~mask, float("-inf"))
    expected = (scores.softmax(-1) @ values).transpose(1, 2)
    torch.testing.assert_close(merge(query, shared, own, mask, scaling), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("kind", "merged"),
    [
        ("llama-tied", True),
        ("gpt2-tied", True),
        ("gpt_neox-untied", True),
        ("phi3-untied", False),
        ("gemma3_text-tied", False),
    ],
)
def test_who_merges(kind: str, merged: bool, open_base: Callable[[str], Base]) -> None:
    """All but those whose window is shorter than the prefix; nothing of it is left in place behind a pass."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    base, plain = open_base(kind), ALL_ATTENTION_FUNCTIONS["sdpa"]
    asked = groups(base)
    with Trunk(base) as trunk:
        prefix = read_prefix(trunk, common_prefix(asked), "off", "mark")
        requests = Requests(trunk, asked, prefix)
        requests.token_scores()
    assert requests.feed._side_by_side is not merged
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is plain


@pytest.mark.parametrize("broken", ["wrong", "unknown"])
def test_what_is_not_exact_is_not_done(
    broken: str, open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attention that says something else, or is not known, leaves the result as it was."""
    base = open_base("llama-tied")
    asked = groups(base)

    def said() -> tuple[list[float], bool]:
        with Trunk(base) as trunk:
            requests = Requests(trunk, asked, read_prefix(trunk, common_prefix(asked), "off", "mark"))
            return [ll for ll, _ in requests.loglikelihoods()], requests.feed._side_by_side

    expected, together = said()
    assert not together

    def other(prefix: Prefix):  # type: ignore[no-untyped-def]
        if broken == "unknown":
            raise Unmerged
        return attending_to(Prefix(prefix.tokens, [(keys, -values) for keys, values in prefix.layers], "off"))

    monkeypatch.setattr(feed_file, "attending_to", other)
    found, together = said()
    assert together
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_prefix_is_tried_once(open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe brings question after question: each is read once."""
    base = open_base("llama-tied")
    asked = groups(base)
    tried: list[bool] = []
    rows = feed_file.Feed._rows
    monkeypatch.setattr(
        feed_file.Feed, "_rows", lambda feed, part, together: (tried.append(together), rows(feed, part, together))[1]
    )
    with Trunk(base) as trunk:
        prefix = read_prefix(trunk, common_prefix(asked), "off", "mark")
        for group in asked:
            Requests(trunk, [group], prefix).token_scores()
    assert tried == [False, True, *[False] * len(asked)]


def test_an_attention_that_caps_its_scores_is_not_known() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    part = torch.zeros(1, 1, 2, 4)
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    with attending_to(Prefix((1,), [(part, part)], "off")):
        attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        attend(SimpleNamespace(layer_idx=0), part, part, part, mask, softcap=None)
        with pytest.raises(Unmerged):
            attend(SimpleNamespace(layer_idx=0), part, part, part, mask, softcap=30.0)
