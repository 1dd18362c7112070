"""Tokenizers that are learned from a corpus: no text is lost in them, and none of it is special."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from ctxtune.backend.vocabulary import END, encoder, learn_vocabulary, open_vocabulary, texts_of
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["the quick brown fox jumps over the lazy dog\n" * 20, "子曰：學而時習之，不亦說乎？\n" * 20]


def test_every_text_comes_back_as_it_was() -> None:
    tokenizer = learn_vocabulary(TEXTS, 400)
    encode = encoder(tokenizer)
    for text in [*TEXTS, "naïve 😀 \t\r\n\x00 ", f"a {END} b", ""]:
        assert tokenizer.decode(encode([text])[0], skip_special_tokens=False) == text
    assert len(tokenizer) <= 400
    assert tokenizer.eos_token_id not in encode([f"a {END} b"])[0]


def test_pieces_have_the_tokens_of_the_whole() -> None:
    encode = encoder(learn_vocabulary(TEXTS, 400))
    first, second = "two lines,\nof which\n", "the last\nis this.\n"
    assert [*encode([first])[0], *encode([second])[0]] == encode([first + second])[0]


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    learn_vocabulary(["a b c"], 300)
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    learn_vocabulary(["a b c"], 300)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


def test_a_given_one_is_read_from_its_folder_or_its_file(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    tokenizer = learn_vocabulary(TEXTS, 300)
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = open_vocabulary(tmp_path / "tokenizer.json")
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.eos_token == END
    assert open_vocabulary(model_folders["llama"]).eos_token_id is not None


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json: the tokenizer cannot be read"):
        open_vocabulary(path)
    with pytest.raises(ModelError, match="cannot be read"):
        open_vocabulary(tmp_path / "nothing.json")
    tokenizer = learn_vocabulary(["a b"], 300)
    text = tokenizer.backend_tokenizer.to_str().replace(END, "<|other|>")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="no token that ends a text"):
        open_vocabulary(path)


def test_the_text_of_each_token() -> None:
    tokenizer = learn_vocabulary(TEXTS[:1], 400)
    texts = texts_of(tokenizer)
    assert len(texts) == len(tokenizer)
    assert texts[tokenizer.eos_token_id] is None
    encode = encoder(tokenizer)
    for text in ("some text", " some", "Aa"):
        assert "".join(str(texts[token]) for token in encode([text])[0]) == text
    assert texts.count(None) == 1 + 128  # and the bytes that are no characters: 0x80 to 0xff


@pytest.mark.parametrize("kind", ["metaspace", "wordpiece", "words"])
def test_the_text_of_tokens_of_other_kinds(kind: str) -> None:
    """Where one stands for its space, where one stands for what goes on, and where nothing says how texts are made of them."""
    spelled = {"metaspace": ["a", "\u2581cat", "s"], "wordpiece": ["a", "cat", "##s"], "words": ["a", " cat", "s"]}[
        kind
    ]
    tokenizer = Tokenizer(models.WordLevel({"<end>": 0, **{word: place + 1 for place, word in enumerate(spelled)}}))
    if kind != "words":
        tokenizer.decoder = decoders.Metaspace() if kind == "metaspace" else decoders.WordPiece()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    assert texts_of(wrapped)[2:] == [" cat", "s"]
