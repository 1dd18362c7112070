"""A corpus as tokens on disk: written once, piece by piece, and read where it lies.

    train.tokens held.tokens     all tokens of a part one behind another, little-endian, 2 bytes each (4 of a large vocabulary):
                                 END x x x END y y y END, an END before each document and one behind the last
    train.starts held.starts     where documents begin, 8 bytes each
    corpus.json                  counts, and how wide a token is

Both are mapped into memory, never read as a whole: a corpus may be far larger than the memory.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from ctxtune.data.documents import Piece

    Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]

_TOGETHER = 1 << 22  # characters that are tokenised together: as many as the cores of a machine share well
_PARTS = ("train", "held")


@dataclass(frozen=True)
class Counts:
    """Of one part: documents, tokens that are predicted (an END behind each document is one), characters and UTF-8 bytes."""

    documents: int = 0
    tokens: int = 0
    characters: int = 0
    num_bytes: int = 0


@dataclass(frozen=True)
class Part:
    """One part as it lies on disk: `tokens` (N + 1,) and `starts`, the places of the ENDs before documents."""

    tokens: NDArray[np.integer]
    starts: NDArray[np.int64]
    counts: Counts


class _Writer:
    """The files of a part, as they grow."""

    def __init__(self, folder: Path, name: str, width: str, end: int) -> None:
        self._tokens: BinaryIO = (folder / f"{name}.tokens").open("wb")
        self._starts: BinaryIO = (folder / f"{name}.starts").open("wb")
        self._width, self._end, self.counts = width, end, Counts()

    def add(self, piece: Piece, ids: Sequence[int]) -> None:
        """The tokens of a piece, behind an END where a document begins with it."""
        now = self.counts
        if piece.begins:
            self._starts.write(np.array([now.tokens], "<i8").tobytes())
            ids = [self._end, *ids]
        self._tokens.write(np.array(ids, self._width).tobytes())
        self.counts = Counts(
            now.documents + piece.begins,
            now.tokens + len(ids),
            now.characters + len(piece.text),
            now.num_bytes + len(piece.text.encode()),
        )

    def close(self) -> None:
        """An END behind all, so that the last document's is predicted as well."""
        self._tokens.write(np.array([self._end], self._width).tobytes())
        self._tokens.close()
        self._starts.close()


def write_corpus(
    folder: Path, pieces: Iterable[Piece], encode: Encode, end: int, vocabulary: int, told: Callable[[int], None],
    beside: Mapping[str, int] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Tokenise pieces into an empty folder; `told` hears of the characters that were read so far, `beside` is kept as it is."""
    width = "<u2" if vocabulary <= 1 << 16 else "<u4"
    writers = {name: _Writer(folder, name, width, end) for name in _PARTS}
    read = 0
    for some, found in _encoded(pieces, encode):
        for piece, ids in zip(some, found, strict=True):
            writers["held" if piece.held else "train"].add(piece, ids)
            read += len(piece.text)
        told(read)
    for writer in writers.values():
        writer.close()
    facts = {
        "width": width,
        "beside": dict(beside),
        **{name: asdict(writer.counts) for name, writer in writers.items()},
    }
    (folder / "corpus.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _encoded(pieces: Iterable[Piece], encode: Encode) -> Iterator[tuple[list[Piece], Sequence[Sequence[int]]]]:
    """Pieces with their tokens; while some are tokenised, the next are read."""
    with ThreadPoolExecutor(1) as pool:
        before: tuple[list[Piece], Future[Sequence[Sequence[int]]]] | None = None
        for some in _together(pieces):
            now = some, pool.submit(encode, [piece.text for piece in some])
            if before is not None:
                yield before[0], before[1].result()
            before = now
        if before is not None:
            yield before[0], before[1].result()


def _together(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    some: list[Piece] = []
    size = 0
    for piece in pieces:
        some.append(piece)
        size += len(piece.text)
        if size >= _TOGETHER:
            yield some
            some, size = [], 0
    if some:
        yield some


def read_corpus(folder: Path) -> tuple[Part, Part, dict[str, int]]:
    """What is learned and what is held out, and what was kept beside.

    Raises:
        DataError: the folder is broken.
    """
    try:
        facts = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        train, held = (_part(folder, name, facts) for name in _PARTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: the tokenised corpus cannot be read: {error}", f"remove {folder}") from error
    return train, held, facts["beside"]


def _part(folder: Path, name: str, facts: dict[str, dict[str, int]]) -> Part:
    counts = Counts(**facts[name])
    tokens = np.memmap(folder / f"{name}.tokens", str(facts["width"]), "r")
    starts = np.memmap(folder / f"{name}.starts", "<i8", "r") if counts.documents else np.zeros(0, np.int64)
    if len(tokens) != counts.tokens + 1 or len(starts) != counts.documents:
        raise ValueError(f"{name} is not as long as corpus.json says")
    return Part(tokens, starts, counts)
