"""Running text cut into windows, in which every token is predicted once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxtune.data.encode import Encoded
from ctxtune.data.tokens import content, first_token

if TYPE_CHECKING:
    from ctxtune.data.tokens import Tokenizer


@dataclass(frozen=True)
class TextWindows:
    """A text cut into windows in which every token is predicted once, and the units that perplexity is counted in."""

    windows: list[Encoded]
    words: int
    num_bytes: int

    @property
    def tokens(self) -> int:
        """The tokens predicted."""
        return sum(len(window.labels) for window in self.windows)


def encode_text_windows(tokenizer: Tokenizer, text: str, max_length: int) -> TextWindows:
    """Rolling windows in which every token is predicted once (`lm_eval/utils.py::get_rolling_token_windows`).

    The first window starts from BOS (else EOS); the last one is filled with context from before it."""
    ids = tuple(content(tokenizer, [text])[0]["input_ids"])
    prefix = first_token(tokenizer)  # special tokens start a text and are not predicted, not even one that stands in it
    if ids[:1] == (prefix,):
        ids = ids[1:]
    everything, windows = (prefix, *ids), []
    for start in range(0, len(ids), max_length):
        stop = min(start + max_length, len(ids))
        fed = everything[max(0, stop - max_length) : stop]
        windows.append(Encoded(fed, tuple(range(len(fed) - (stop - start), len(fed))), ids[start:stop]))
    return TextWindows(windows, len(text.split()), len(text.encode()))
