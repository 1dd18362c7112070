"""Tiny tokenizers of three families, trained in the test on a few sentences."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Review: a fine, funny and moving film. Sentiment: positive",
    "Review: dull, slow and far too long. Sentiment: negative",
    "the quick brown fox jumps over the lazy dog; it was great, it was terrible, it was good, it was bad",
]


def byte_level(bos: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE as in GPT-2, SmolLM2 and Llama 3; with `bos` it starts every text with <s> by default."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(CORPUS * 4, trainer)
    if bos:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def gpt() -> PreTrainedTokenizerFast:
    return byte_level(bos=False)


@pytest.fixture(scope="session")
def llama() -> PreTrainedTokenizerFast:
    return byte_level(bos=True)


@pytest.fixture(scope="session")
def bert() -> PreTrainedTokenizerFast:
    """WordPiece in lower case, [CLS] before and [SEP] behind by default, a mask, neither BOS nor EOS."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.train_from_iterator(
        CORPUS * 4, trainers.WordPieceTrainer(vocab_size=160, special_tokens=specials, show_progress=False)
    )
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip


@pytest.fixture(params=["gpt", "llama"])
def causal(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return request.getfixturevalue(request.param)
