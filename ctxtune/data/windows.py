"""Running text cut into windows, in which every token is predicted once.

No end is learned behind a document: where a file stops, a text need not, and the end that a tokenizer knows may be that of a
turn in a chat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctxtune.data.encode import Encoded, EncodedSet, chunks
from ctxtune.data.tokens import content, first_token
from ctxtune.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.data.read import Row
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


@dataclass(frozen=True)
class TextSpec:
    """How documents become tokens: in windows of `max_length` at most, each behind the virtual tokens `before`, for a model
    that reads `context` tokens."""

    tokenizer: Tokenizer
    max_length: int
    context: int
    before: tuple[int, ...] = ()
    instruction = ""

    @property
    def virtual(self) -> tuple[int, ...]:
        """The virtual tokens."""
        return self.before

    def behind(self, virtual: tuple[int, ...]) -> TextSpec:
        """The same windows, each behind virtual tokens.

        Raises:
            RecipeError: the two together are more than the model reads.
        """
        if len(virtual) + self.max_length > self.context:
            raise RecipeError(
                f"windows of {self.max_length:,} tokens behind {len(virtual):,} virtual ones: the model reads {self.context:,}",
                f"--set data.max_length={max(2, self.context - len(virtual))}",
            )
        return replace(self, before=virtual)

    def render(self, row: Row) -> str:
        """The text of a document."""
        return str(row.fields["text"])


def encode_texts(rows: Sequence[Row], spec: TextSpec) -> EncodedSet:
    """The windows of every document, in order."""
    done = EncodedSet()
    first = first_token(spec.tokenizer)
    for some in chunks(rows):
        for row, one in zip(some, content(spec.tokenizer, [spec.render(row) for row in some]), strict=True):
            windows = _windows(one["input_ids"], first, spec.max_length)
            done.examples += [window.between(spec.before, ()) for window in windows] if spec.before else windows
            done.row_of += [row] * len(windows)
    return done


def encode_text_windows(tokenizer: Tokenizer, text: str, max_length: int) -> TextWindows:
    """One text in windows, with its words and bytes."""
    windows = _windows(content(tokenizer, [text])[0]["input_ids"], first_token(tokenizer), max_length)
    return TextWindows(windows, len(text.split()), len(text.encode()))


def _windows(tokens: Sequence[int], first: int, max_length: int) -> list[Encoded]:
    """Rolling windows in which every token is predicted once (`lm_eval/utils.py::get_rolling_token_windows`).

    The first window starts from the token `first`, BOS (else EOS); the last one is filled with context from before it."""
    ids = tuple(tokens)
    if ids[:1] == (first,):  # special tokens start a text and are not predicted, not even one that stands in it
        ids = ids[1:]
    everything, windows = (first, *ids), []
    for start in range(0, len(ids), max_length):
        stop = min(start + max_length, len(ids))
        fed = everything[max(0, stop - max_length) : stop]
        windows.append(Encoded(fed, tuple(range(len(fed) - (stop - start), len(fed))), ids[start:stop]))
    return windows
