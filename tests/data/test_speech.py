"""Tokens become text: what the whole decodes to, never half a character, nothing of a stop string."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer, decoders, models

from ctxtune.data.speech import WINDOW, Speech

from ..conftest import make_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TEXT = "Häuser, 漢字 und 🦜🦜! Review: great fun\n" * 12


def bytewise(tokens: Sequence[int]) -> str:
    """A byte a token."""
    return bytes(tokens).decode("utf-8", errors="replace")


def spoken(decode: Callable[[list[int]], str], tokens: Sequence[int], *stops: str) -> tuple[list[str], bool]:
    speech = Speech(decode, stops)
    pieces = []
    for token in tokens:
        pieces.append(speech.push(token))
        if speech.stopped:
            break
    pieces.append(speech.close())
    assert speech.text == "".join(pieces)
    return pieces, speech.stopped


def byte_fallback() -> Callable[[list[int]], str]:
    """As Llama 2 and Gemma decode: a space is ▁, what has no token is written byte by byte, and a text's first space is cut."""
    words = [f"<0x{byte:02X}>" for byte in range(256)] + [f"▁{word}" for word in ("one", "two")] + ["▁", "漢", "n"]
    bpe = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True))
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return lambda tokens: bpe.decode(tokens)


def test_all_pieces_are_the_text() -> None:
    for decode, tokens in [
        (bytewise, list(TEXT.encode())),
        (make_tokenizer("gpt2-tied").decode, make_tokenizer("gpt2-tied")(TEXT)["input_ids"]),
    ]:
        assert len(tokens) > 4 * WINDOW
        pieces, _ = spoken(decode, tokens)
        assert "".join(pieces) == TEXT
        assert not any("\ufffd" in piece for piece in pieces)
        assert max(map(len, pieces)) < 20


def test_random_bytes_read_as_the_decoder_reads_them() -> None:
    random_bytes = random.Random(0).choices([0x41, 0x80, 0xC3, 0xA4, 0xE6, 0xBC, 0xF0, 0xFF], k=2000)
    for size in (*range(12), 500, 2000):
        pieces, _ = spoken(bytewise, random_bytes[:size])
        assert "".join(pieces) == bytewise(random_bytes[:size])


def test_bytes_that_a_decoder_joins_late() -> None:
    decode = byte_fallback()
    tokens = [256, *"漢字".encode(), 257, 258, 256, *"é".encode(), 260, *"🦜".encode()] * 30
    pieces, _ = spoken(decode, tokens)
    assert "".join(pieces) == decode(tokens)
    assert "\ufffd" not in "".join(pieces)
    # Broken off inside a character this decoder takes the whole one before it back: what was said stays said.
    assert "".join(spoken(decode, [256, *"漢字".encode()[:4]])[0]) == "one漢"


def test_no_more_than_a_window_is_decoded() -> None:
    sizes = []

    def decode(tokens: list[int]) -> str:
        sizes.append(len(tokens))
        return bytewise(tokens)

    spoken(decode, list(b"a" * 1000))
    assert max(sizes) <= WINDOW + 1


@pytest.mark.parametrize(("text", "stops", "said"), [
    ("one two three", ["two"], "one "),
    ("one two three", ["four"], "one two three"),
    ("one two three", ["three", "two"], "one "),
    ("abab abc", ["abc"], "abab "),
    ("xab", ["ab", "b"], "x"),  # complete at once: the one that began first
    ("xabc", ["abc", "b"], "xa"),  # `b` is complete before `abc`
    ("a\n\nb", ["\n\n"], "a"),
    ("end: 漢字!", ["漢字"], "end: "),
    ("half of 漢", ["漢字"], "half of 漢"),
    ("two", ["two"], ""),
])  # fmt: skip
def test_stop_strings(text: str, stops: list[str], said: str) -> None:
    pieces, stopped = spoken(bytewise, list(text.encode()), *stops)
    assert "".join(pieces) == said
    assert stopped == (said != text)


def joined(chunks: list[str], tokens: list[int]) -> str:
    return "".join(chunks[token] for token in tokens)


def test_a_stop_string_is_found_however_the_tokens_lie() -> None:
    """Cut in every way into chunks, the text ends in the same place."""
    text, stops = "a-STOP-b STOPPED", ("STOP-b", "OPPED", "TOP")
    for cuts in range(2 ** (len(text) - 1)):
        if cuts % 37:
            continue
        chunks, last = [], 0
        for at in range(1, len(text)):
            if cuts >> (at - 1) & 1:
                chunks.append(text[last:at])
                last = at
        chunks.append(text[last:])
        pieces, stopped = spoken(partial(joined, chunks), range(len(chunks)), *stops)
        # A token may complete several at once; which of them counts does not depend on it.
        assert ("".join(pieces), stopped) == ("a-S", True), chunks
