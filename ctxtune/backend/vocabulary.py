"""Tokenizers of corpora: a byte-level BPE learned from one, or a given one.

Byte-level BPE (Radford et al. 2019, GPT-2) has a token for every byte, so that no text is unknown to it and its tokens give
back every text as it was. Both learn and write with the library `tokenizers`, on all cores.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ctxtune.backend.library import hush, one_line
from ctxtune.backend.tokenizer import load_tokenizer
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

END = "<|endoftext|>"
_BEFORE = "a"  # a token of which the text is known: some decoders take the first one's space away


def learn_vocabulary(texts: Iterable[str], size: int) -> Any:
    """A tokenizer of at most `size` tokens, 256 of which are bytes, and one the end of a document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    with _all_cores():
        tokenizer.train_from_iterator(texts, trainer)
    return _wrapped(tokenizer)


def open_vocabulary(path: Path) -> Any:
    """The tokenizer of a folder, or of a tokenizer.json alone.

    Raises:
        ModelError: there is none, it cannot be read, or it has no token that ends a text.
    """
    if path.is_dir():
        tokenizer = load_tokenizer(path)
    else:
        from tokenizers import Tokenizer

        try:
            tokenizer = _wrapped(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises plain Exceptions
            raise ModelError(f"{path}: the tokenizer cannot be read: {one_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{path}: the tokenizer has no token that ends a text", "name its eos_token in its folder")
    return tokenizer


def encoder(tokenizer: Any) -> Any:
    """texts -> their tokens, none of them special: a text that spells one is text."""
    plain = tokenizer.backend_tokenizer
    plain.encode_special_tokens = True
    plain.no_truncation()
    plain.no_padding()

    def encode(texts: Sequence[str]) -> list[list[int]]:
        with _all_cores():
            return [one.ids for one in plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    return encode


def texts_of(tokenizer: Any) -> list[str | None]:
    """The text of each token within a text, its space before it; None of those that are special, or no characters alone."""
    plain, special = tokenizer.backend_tokenizer, set(tokenizer.all_special_ids)
    decode = plain.decoder.decode if plain.decoder is not None else "".join
    before = decode([_BEFORE])
    texts: list[str | None] = []
    for number, token in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        text = None if token is None or number in special else decode([_BEFORE, token])
        texts.append(
            text[len(before) :] if text is not None and text.startswith(before) and "\ufffd" not in text else None
        )
    return texts


def _wrapped(tokenizer: Any) -> Any:
    """As transformers knows it; END begins and ends texts where the vocabulary has it."""
    from transformers import PreTrainedTokenizerFast

    hush()
    ends = END if tokenizer.token_to_id(END) is not None else None
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=ends, eos_token=ends)


@contextmanager
def _all_cores() -> Iterator[None]:
    """The library works on one core once a process has been forked, unless it is told that this is no danger."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
