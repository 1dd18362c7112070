"""Rows of a classifier: the whole text, its first token, and the place of the right choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.data.encode import EncodeSpec, encode_choices, encode_rows
from ctxtune.data.mask import pieces
from ctxtune.data.read import Row
from ctxtune.data.render import compile_template
from ctxtune.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEXTS = [("a fine film", "positive"), ("dull, slow and far too long", "negative"), ("it was great", "positive")]
ROWS = [Row({"text": text, "label": label}, "rows.jsonl", number) for number, (text, label) in enumerate(TEXTS, 1)]


def spec(tokenizer: Any, **more: Any) -> EncodeSpec:
    settings = {"max_length": 64, "choices": ("negative", "neither", "positive"), **more}
    prompt, answer = compile_template("{{ text }}", "data.prompt"), compile_template("{{ label }}", "data.answer")
    return EncodeSpec(tokenizer=tokenizer, kind="classifier", prompt=prompt, answer=answer, **settings)


def test_a_row_is_its_text_and_the_place_of_its_answer(bert: PreTrainedTokenizerFast) -> None:
    done = encode_rows(ROWS, spec(bert))
    assert [list(one.ids) for one in done.examples] == [bert(text)["input_ids"] for text, _ in TEXTS]
    assert [one.rows for one in done.examples] == [(0,)] * 3
    assert [one.labels for one in done.examples] == [(2,), (0,), (2,)]
    assert done.supervised_tokens == 3


def test_choices_share_their_text(bert: PreTrainedTokenizerFast) -> None:
    done = encode_choices(ROWS, spec(bert))
    for requests, example in zip(done.requests, encode_rows(ROWS, spec(bert)).examples, strict=True):
        assert {one.ids for one in requests} == {example.ids}
        assert [one.labels for one in requests] == [(0,), (1,), (2,)]
    assert done.gold == [2, 0, 2]


def test_what_is_too_long_loses_its_beginning_and_keeps_its_frame(bert: PreTrainedTokenizerFast) -> None:
    whole = bert(TEXTS[1][0])["input_ids"]
    assert len(whole) > 6
    for length in (2, 3, 6):
        done = encode_rows(ROWS[1:2], spec(bert, max_length=length, on_long="truncate"))
        (one,) = done.examples
        assert (list(one.ids), one.rows, done.truncated) == ([whole[0], *whole[len(whole) - length + 1 :]], (0,), 1)
    assert encode_rows(ROWS[1:], spec(bert, max_length=6, on_long="drop")).dropped >= 1
    with pytest.raises(DataError, match=r"rows\.jsonl line 2: \d+ tokens are more than 6"):
        encode_rows(ROWS[1:2], spec(bert, max_length=6))


def test_a_text_needs_a_token_before_it(gpt: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ModelError, match="puts no token before a text"):
        encode_rows(ROWS, spec(gpt))


@pytest.mark.parametrize("each", [False, True])
def test_the_choice_is_shown_behind_the_text(bert: PreTrainedTokenizerFast, each: bool) -> None:
    one = encode_rows(ROWS, spec(bert)).examples[0]
    *text, choice = pieces(one, "classifier", bert, each=each, choices=["negative", "neither", "positive"])
    assert (choice.text, choice.tokens, choice.supervised) == (" positive", 0, True)
    assert "".join(piece.text for piece in text) == "[CLS] a fine film [SEP]"
    assert len(text) == (len(one.ids) if each else 1)
    assert not any(piece.supervised for piece in text)
