"""Lines of a pipe as they come: what is there is handed out at once, and nobody waits for a full load.

One line must be there; of those that are there already, some more come with it. Memory is bounded: a line that is longer than
any row is cut off and told.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from ctxtune.data.open import BOM

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 16 * 2**20  # bytes of a line
_READ = 2**16

Line = tuple[int, bytes | None]  # its number, and its bytes without the line break; None where it was too long


def line_batches(source: int, most: int) -> Iterator[list[Line]]:
    """Lines from a file descriptor, about so many at a time, each with its number.

    Blank lines are harmless at the end alone: of those that something follows, the first is handed out.
    """
    number, blank, ready = 0, 0, list[Line]()
    for line in _lines(source):
        if line is not None:
            number += 1
            line = line.removeprefix(BOM) if number == 1 else line
            if not line.strip():
                blank = blank or number
                continue
            ready += [(blank, b"")] if blank else []
            ready.append((number, line if len(line) <= LONGEST else None))
            blank = 0
        if ready and (line is None or len(ready) >= most):
            yield ready
            ready = []
    if ready:
        yield ready


def _lines(source: int) -> Iterator[bytes | None]:
    """Lines; None where the next one is not there yet."""
    rest, skipping = b"", False
    while True:
        if not _is_ready(source):
            yield None
        read = os.read(source, _READ)
        if not read:
            break
        *whole, rest = (rest + read).split(b"\n")
        for line in whole:
            if skipping:
                skipping = False  # the end of a line that was told already
                continue
            yield line
        if len(rest) > LONGEST:
            if not skipping:
                yield rest
            rest, skipping = b"", True
    if rest and not skipping:
        yield rest


def _is_ready(source: int) -> bool:
    try:
        return bool(select.select([source], [], [], 0)[0])
    except OSError:  # what cannot be waited for is always there
        return True
