"""A prefix that is read once: every family says behind it what it says of whole texts, windows shorter than it included."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.backend import prefix as prefix_file
from ctxtune.backend.branches import Branches
from ctxtune.backend.decode import generate_batch
from ctxtune.backend.prefix import as_rows, read_prefix
from ctxtune.backend.trunk import Trunk
from ctxtune.data.encode import Encoded
from ctxtune.evals.choice import Requests, behind, common_prefix
from ctxtune.recipe.written import Generation

from ..conftest import FAMILY_KINDS, FOUND, WINDOW
from .test_trunk import double  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctxtune.backend.load import Base

CAUSAL_KINDS = [kind for kind in FAMILY_KINDS if not kind.startswith(("bert", "roberta", "distilbert"))]
READ = 3 * WINDOW + 1


def groups(base: Base, read: int = READ) -> list[list[Encoded]]:
    """Five rows of one to four choices, some of several tokens, behind the same tokens."""
    generator = torch.Generator().manual_seed(7)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, len(base.tokenizer), (length,), generator=generator).tolist())

    front, found = draw(read), []
    for number in range(5):
        prompt = (*front, 5 + number, *draw(number + 1))  # they part behind the front
        found.append([])
        for length in (1, 3, 1, 2)[: 1 + number % 4]:
            said = draw(length)
            fed = (*prompt, *said[:-1])
            found[-1].append(Encoded(fed, tuple(range(len(prompt) - 1, len(fed))), said))
    return found


def alone(base: Base, one: Encoded) -> float:
    """By the model's own plain forward over the whole text."""
    logits = base.model(input_ids=torch.tensor([one.ids])).logits[0, list(one.rows)]
    return -float(torch.nn.functional.cross_entropy(logits, torch.tensor(one.labels), reduction="sum"))


@pytest.mark.parametrize("kind", CAUSAL_KINDS)
@pytest.mark.parametrize("where", ["off", "memory"])
def test_requests_behind_a_prefix_in_float64(kind: str, where: str, double: Callable[[str], Base]) -> None:  # noqa: F811
    base = double(kind)
    asked = groups(base)
    with torch.no_grad():
        expected = [alone(base, one) for group in asked for one in group]
        with Trunk(base) as trunk:
            prefix = read_prefix(trunk, common_prefix(asked), where, "mark")
            assert len(prefix.tokens) == READ > 2 * WINDOW
            found = [ll for ll, _ in Requests(trunk, asked, prefix).loglikelihoods()]
    # What is kept is kept as float32.
    assert found == pytest.approx(expected, abs=1e-10 if where == "off" else 1e-4)


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "gemma3_text-tied"])
def test_a_prefix_is_read_in_parts(
    kind: str, open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = open_base(kind)
    tokens = common_prefix(groups(base))
    with Trunk(base) as trunk:
        whole = read_prefix(trunk, tokens, "off", "mark")
        monkeypatch.setattr(type(base.device), "stride", 7)
        parts = read_prefix(trunk, tokens, "off", "mark")
    torch.testing.assert_close(as_rows(parts.layers), as_rows(whole.layers), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "opt-tied", "gemma3_text-tied", "qwen3-sliding-tied"])
def test_a_prefix_goes_on_from_another(
    kind: str, open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What both begin with is not read again, and the other stays as it is."""
    base = open_base(kind)
    tokens = common_prefix(groups(base))
    other = (*tokens[:-4], tokens[0], tokens[1])
    with Trunk(base) as trunk:
        whole, before = (read_prefix(trunk, ids, "off", "mark") for ids in (tokens, other))
        kept = as_rows(before.layers).clone()
        fed = []
        forward = trunk.backbone.forward
        monkeypatch.setattr(
            trunk.backbone,
            "forward",
            wraps(forward)(lambda **given: (fed.append(given["input_ids"]), forward(**given))[1]),
        )
        found = read_prefix(trunk, tokens, "off", "mark", before.shared_with(tokens))
    assert [ids.tolist() for ids in fed] == [[list(tokens[-4:])]]
    assert found.tokens == tokens
    torch.testing.assert_close(as_rows(found.layers), as_rows(whole.layers), rtol=0, atol=1e-5)
    assert torch.equal(as_rows(before.layers), kept)


def test_a_kept_prefix_is_not_read_again(open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    base = open_base("llama-tied")
    tokens = common_prefix(groups(base))
    lengths = []
    read = prefix_file._read
    monkeypatch.setattr(prefix_file, "_read", lambda trunk, ids: (lengths.append(len(ids)), read(trunk, ids))[1])
    with Trunk(base) as trunk:
        first = read_prefix(trunk, tokens, "disk", "mark")
        again = read_prefix(trunk, tokens, "disk", "mark")
        other = read_prefix(trunk, tokens, "disk", "other weights")
        shorter = read_prefix(trunk, tokens[:-1], "disk", "mark")
    assert [one.place for one in (first, again, other, shorter)] == ["disk", "kept", "disk", "disk"]
    assert lengths == [1, READ, 1, 1, READ, 1, READ - 1]
    assert torch.equal(as_rows(first.layers), as_rows(again.layers))


def test_rows_are_as_peft_writes_them(open_base: Callable[[str], Base]) -> None:
    """Per token k0, v0, k1, v1, ...: what PEFT's prefix tuning makes its cache of."""
    base = open_base("llama-tied")
    with Trunk(base) as trunk:
        prefix = read_prefix(trunk, (5, 6, 7), "off", "mark")
    rows, heads = as_rows(prefix.layers)[0], prefix.layers[0][0].shape[1]
    view = rows.view(1, 3, 2 * len(prefix.layers), heads, -1).permute(2, 0, 3, 1, 4)  # peft: PeftModel.get_prompt
    for (keys, values), (k, v) in zip(prefix.layers, view.split(2), strict=True):
        assert torch.equal(keys, k)
        assert torch.equal(values, v)


def test_a_prefix_stays_as_it_is(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    asked = groups(base)
    with Trunk(base) as trunk:
        prefix = read_prefix(trunk, common_prefix(asked), "off", "mark")
        before = as_rows(prefix.layers).clone()
        first = Requests(trunk, asked, prefix).loglikelihoods()
        assert first == Requests(trunk, asked, prefix).loglikelihoods()
    assert torch.equal(as_rows(prefix.layers), before)


@pytest.mark.parametrize("kind", [kind for kind in CAUSAL_KINDS if kind not in FOUND])
@pytest.mark.parametrize("sampled", [False, True])
def test_texts_grow_behind_a_prefix_as_they_do_alone(
    kind: str, sampled: bool, open_base: Callable[[str], Base]
) -> None:
    base = open_base(kind)
    prompts = [group[0].ids for group in groups(base)]
    settings = Generation(max_tokens=9, temperature=1.5 if sampled else 0)
    # One text stops early: the others go on without it.
    some = next(one for one in generate_batch(base, prompts, settings) if len(one.text) > 2)
    settings = settings.model_copy(update={"stop": [some.text[:1]]})
    expected = generate_batch(base, prompts, settings)
    trunk = Trunk(base)
    prefix = read_prefix(trunk, common_prefix(groups(base)), "off", "mark")
    before = as_rows(prefix.layers).clone()
    found = generate_batch(base, prompts, settings, behind=(trunk, prefix))
    assert found == expected
    assert min(len(one.tokens) for one in expected) < 9
    assert torch.equal(as_rows(prefix.layers), before)


def test_a_branch_gives_the_logits_of_its_text(double: Callable[[str], Base]) -> None:  # noqa: F811
    """Texts that grow by several tokens at a time, one of which leaves."""
    base = double("gemma3_text-tied")
    trunk = Trunk(base)
    prefix = read_prefix(trunk, tuple(range(5, 5 + READ)), "off", "mark")
    texts = [[*prefix.tokens, 7, 8, 9], [*prefix.tokens, 30], [*prefix.tokens, 40, 41]]
    branches, more = Branches(trunk, prefix), [[50], [51, 52, 53], [54]]

    def whole(text: Sequence[int]) -> torch.Tensor:
        logits: torch.Tensor = base.model(input_ids=torch.tensor([text])).logits[0, -1]
        return logits

    with torch.no_grad():
        for fed, kept in ((branches.unread(texts), [0, 2, 1]), (more, [1, 2]), (more[:2], [0, 1])):
            found = branches.read(fed)
            texts = [text if text[-len(new) :] == new else [*text, *new] for text, new in zip(texts, fed, strict=True)]
            torch.testing.assert_close(found, torch.stack([whole(text) for text in texts]), rtol=0, atol=1e-11)
            branches.select(kept)
            texts = [texts[at] for at in kept]
    with pytest.raises(ValueError, match="does not go on"):
        branches.unread([prefix.tokens])


def test_what_does_not_go_on_from_a_prefix_is_refused(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    with Trunk(base) as trunk:
        prefix = read_prefix(trunk, (5, 6), "off", "mark")
    assert behind(prefix, Encoded((5, 6, 7, 8), (2, 3), (8, 9))) == Encoded((7, 8), (0, 1), (8, 9))
    for one in (Encoded((5, 7, 7), (2,), (1,)), Encoded((5, 6, 7), (1, 2), (7, 1)), Encoded((5,), (0,), (1,))):
        with pytest.raises(ValueError, match="does not go on"):
            behind(prefix, one)


def test_what_all_begin_with() -> None:
    a, b = Encoded((1, 2, 3, 4), (3,), (9,)), Encoded((1, 2, 3, 5, 6), (3, 4), (6, 7))
    assert common_prefix([[a], [b]]) == (1, 2, 3)
    assert common_prefix([[a, b], [Encoded((1, 2, 3, 4), (1, 3), (3, 9))]]) == (1,)
    assert common_prefix([[a]]) == (1, 2, 3)
    assert common_prefix([[a], [Encoded((2,), (0,), (9,))]]) == ()
