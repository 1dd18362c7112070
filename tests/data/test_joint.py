"""Where demonstrations end: behind what is cut off, a question's tokens are those of the whole text."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ctxtune.data.joint import joint
from ctxtune.data.prompt import encode_prompt

from ..conftest import CORPUS

FRONT = "".join(f"{text}\n\n" for text in CORPUS[:3])
QUESTIONS = ["Review: great fun\nSentiment:", "Review: 3 hours\nSentiment:", "it"]


def trained(pre: Any, bos: bool = False) -> Any:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [*["\n\nRe", "\n\n"] * 99, *CORPUS * 4],
        trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False),
    )
    if bos:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>")


def bytes_of() -> Any:
    """GPT-2's: white space is left to the word behind it but for its last character, at the end it stays together."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def spaced() -> Any:
    """SentencePiece's: a space comes before the first word of a text."""
    return pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.ByteLevel(False)])


def merging() -> Any:
    """White space and the word behind it may become one token."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("X"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("pre", [bytes_of, spaced, merging])
def test_questions_go_on_from_what_is_cut_off(pre: Any, bos: bool) -> None:
    tokenizer = trained(pre(), bos)
    found = joint(tokenizer, FRONT, QUESTIONS)
    size = len(found.tokens)
    wholes = [tokenizer(FRONT + question)["input_ids"] for question in QUESTIONS]
    assert all(tuple(ids[:size]) == found.tokens and len(ids) > size for ids in wholes)
    bare = [tokenizer(question, add_special_tokens=False)["input_ids"] for question in QUESTIONS]
    assert found.alone == all(ids[size:] == alone for ids, alone in zip(wholes, bare, strict=True))
    assert found.alone == (pre is bytes_of)
    assert (found.tokens[0] == 0) == bos
    assert size >= len(encode_prompt(tokenizer, FRONT)) - 2


def test_demonstrations_alone_would_be_other_tokens() -> None:
    """Two line breaks at the end of a text are one token, and two before a word."""
    tokenizer = trained(bytes_of())
    alone = tuple(tokenizer(FRONT)["input_ids"])
    assert joint(tokenizer, FRONT, QUESTIONS).tokens[: len(alone)] != alone


def test_nothing_is_asked() -> None:
    tokenizer = trained(bytes_of())
    assert joint(tokenizer, FRONT, ["", ""]).tokens == tuple(tokenizer(FRONT)["input_ids"])
    assert joint(tokenizer, "", QUESTIONS).tokens == ()
