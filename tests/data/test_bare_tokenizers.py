"""Tokenizers that lack what encoding needs: each lack is a `ModelError` that names it."""

from __future__ import annotations

from typing import Any

import pytest

from ctxtune.data.encode import Encoded, encode_pair, encode_pairs
from ctxtune.data.windows import encode_text_windows
from ctxtune.errors import ModelError


class Bare:
    """A tokenizer of one letter a token that lacks every special token."""

    bos_token_id = eos_token_id = mask_token_id = None

    def __call__(self, text: Any, **options: Any) -> dict[str, Any]:
        if options.get("return_offsets_mapping"):
            raise NotImplementedError
        return {"input_ids": [[*map(ord, one)] for one in text] if isinstance(text, list) else [*map(ord, text)]}


def test_a_tokenizer_without_special_tokens() -> None:
    one = encode_pair(Bare(), "ab", "c", delimiter="", kind="causal", max_length=9)
    assert one == Encoded((97, 98), (1,), (99,))
    with pytest.raises(ModelError, match="neither a BOS nor an EOS"):
        encode_pair(Bare(), "", "c", delimiter="", kind="causal", max_length=9)
    with pytest.raises(ModelError, match="no end-of-text token"):
        encode_pair(Bare(), "ab", "c", delimiter="", kind="causal", max_length=9, end=True)
    with pytest.raises(ModelError, match="no mask token"):
        encode_pair(Bare(), "ab", "c", delimiter="", kind="masked", max_length=9)
    with pytest.raises(ModelError, match="neither a BOS nor an EOS"):
        encode_text_windows(Bare(), "abc", 9)
    masked = Bare()
    masked.mask_token_id = 1  # type: ignore[assignment]
    with pytest.raises(ModelError, match="where in the text its tokens stand"):
        encode_pair(masked, "ab", "c", delimiter="", kind="masked", max_length=9)


def test_a_tokenizer_that_encodes_nothing() -> None:
    class Deaf(Bare):
        def __call__(self, text: Any, **options: Any) -> dict[str, Any]:
            return {"input_ids": [[] for _ in text] if isinstance(text, list) else []}

    with pytest.raises(ModelError, match="encodes neither"):
        encode_pairs(Deaf(), [("a", "b")], delimiter=" ", kind="causal")
