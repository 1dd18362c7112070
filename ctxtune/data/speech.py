"""Tokens become text while they are written: whole characters only, and nothing of a stop string.

The text so far is decoded anew at every token, from a window of the last ones, and what it has gained is handed on; what
ends in U+FFFD waits, for it may be the first bytes of a character. All pieces together are the final text, so that a
stream and a result cannot differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WINDOW = 64  # tokens decoded at once
CONTEXT = 16  # of them, what stays in front of new ones: decoders look at the token before, never so far
BROKEN = "\ufffd"  # what decoders write for bytes that are no character


class Speech:
    """The text of one answer; `decode` turns tokens into text.

    Of several stop strings the one that is complete first ends the text, of those complete at once the one that began
    first; the text is cut where it began, however the model's tokens lie across it.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._decode = decode
        self._stops = stops
        self._tokens: list[int] = []
        self._shown = ""  # of the window
        self._held = ""  # may be the beginning of a stop string
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """Everything handed out so far."""
        return "".join(self._pieces)

    def push(self, token: int) -> str:
        """What the text gains for certain by one more token."""
        self._tokens.append(token)
        whole = self._decode(self._tokens)
        fresh = self._gain(whole.rstrip(BROKEN))
        if len(self._tokens) > WINDOW and whole == self._shown:
            self._slide(whole)
        return self._hand_out(fresh, last=False)

    def close(self) -> str:
        """The rest, when no more tokens come."""
        fresh = "" if self.stopped else self._gain(self._decode(self._tokens))
        return self._hand_out(fresh, last=True)

    def _gain(self, whole: str) -> str:
        """Decoders of single bytes take a finished character back while the next is incomplete: then nothing is gained."""
        if not whole.startswith(self._shown):
            return ""
        fresh, self._shown = whole[len(self._shown) :], whole
        return fresh

    def _slide(self, whole: str) -> None:
        """Forget tokens that no longer matter, where what is left reads the same without them."""
        tail = self._tokens[-CONTEXT:]
        text = self._decode(tail)
        if text and whole.endswith(text):
            self._tokens, self._shown = tail, text

    def _hand_out(self, fresh: str, last: bool) -> str:
        held = self._held + fresh
        found = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held, piece = "", held[: min(found)[1]]
        else:
            keep = 0 if last else self._begun(held)
            self._held, piece = held[len(held) - keep :], held[: len(held) - keep]
        if piece:
            self._pieces.append(piece)
        return piece

    def _begun(self, text: str) -> int:
        """How many letters at the end of `text` may be the beginning of a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for count in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self._stops):
                return count
        return 0
