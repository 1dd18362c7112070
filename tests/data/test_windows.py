"""Every token of every document is predicted once, behind what stands before it."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import pytest

from ctxtune.data.read import Row
from ctxtune.data.windows import TextSpec, encode_text_windows, encode_texts
from ctxtune.errors import RecipeError

from ..conftest import BAD, GOOD, make_tokenizer


def documents(count: int, seed: int) -> list[Row]:
    """Of very different lengths."""
    random = Random(seed)
    texts = (" ".join(random.choices(GOOD + BAD, k=random.randint(1, 12))) for _ in range(count))
    return [Row({"text": text}, "a.jsonl", number, "document") for number, text in enumerate(texts, 1)]


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied"])
@pytest.mark.parametrize("length", [2, 7, 64])
def test_every_token_is_predicted_once(kind: str, length: int) -> None:
    tokenizer, rows = make_tokenizer(kind), documents(40, length)
    done = encode_texts(rows, TextSpec(tokenizer, length, 64))
    found = defaultdict(list)
    for row, one in zip(done.row_of, done.examples, strict=True):
        found[row.line].append(one)
    for row in rows:
        ids = tokenizer(row.fields["text"], add_special_tokens=False)["input_ids"]
        windows = found[row.line]
        assert [label for one in windows for label in one.labels] == ids
        everything, place = [tokenizer.bos_token_id, *ids], 0
        for one in windows:
            assert 0 < len(one.ids) <= length
            for at, label in zip(one.rows, one.labels, strict=True):
                place += 1
                assert everything[place] == label
                assert list(one.ids[: at + 1]) == everything[place - at - 1 : place]  # what stands before it, in order
        assert len(windows) == -(-len(ids) // length)
        assert windows == encode_text_windows(tokenizer, str(row.fields["text"]), length).windows


def test_virtual_tokens_stand_before_every_window() -> None:
    tokenizer, rows = make_tokenizer("llama-tied"), documents(6, 3)
    bare = TextSpec(tokenizer, 16, 64)
    behind = encode_texts(rows, bare.behind((-1, -2, -3))).examples
    for one, other in zip(behind, encode_texts(rows, bare).examples, strict=True):
        assert one.ids == (-1, -2, -3, *other.ids)
        assert one.rows == tuple(row + 3 for row in other.rows)
        assert one.labels == other.labels
    with pytest.raises(RecipeError, match="windows of 16 tokens behind 49 virtual ones: the model reads 64"):
        bare.behind(tuple(range(-1, -50, -1)))
