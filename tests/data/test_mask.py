"""Which tokens the loss is on, as pieces of text: nothing is lost, and the marks are those of the encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ctxtune.data.encode import Encoded, encode_pairs
from ctxtune.data.mask import marked_tokens, pieces

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("answer", ["positive", "naïve 電影 😀", "a b"])
def test_the_pieces_are_the_text(answer: str, each: bool, open_base: Callable[[str], Base]) -> None:
    tokenizer = open_base("llama-tied").tokenizer
    (one,) = encode_pairs(tokenizer, [("Review: dull 電\nSentiment:", answer)], delimiter=" ", kind="causal")
    cut = pieces(one, "causal", tokenizer, each=each)
    assert "".join(piece.text for piece in cut) == f"<s>Review: dull 電\nSentiment: {answer}"
    assert "".join(piece.text for piece in cut if piece.supervised) == f" {answer}"
    assert sum(piece.tokens for piece in cut) == len(one.ids) + 1
    assert sum(piece.tokens for piece in cut if piece.supervised) == len(one.labels)
    assert len(cut) == (len(one.ids) + 1 if each else 2)


def test_a_masked_model_predicts_in_place(open_base: Callable[[str], Base]) -> None:
    tokenizer = open_base("bert-tied").tokenizer
    (one,) = encode_pairs(tokenizer, [("it was", "positive")], delimiter=" ", kind="masked")
    marked = marked_tokens(one, "masked")
    assert [token for token, _ in marked] == tokenizer("it was positive")["input_ids"]
    assert [at for at, (_, supervised) in enumerate(marked) if supervised] == list(one.rows)


def test_turns_between_which_nothing_is_learned() -> None:
    one = Encoded(ids=(5, 6, 7, 8, 9), rows=(1, 4), labels=(7, 10))
    assert marked_tokens(one, "causal") == [(5, False), (6, False), (7, True), (8, False), (9, False), (10, True)]
