"""A corpus as documents, read piece by piece: only a piece of them is ever in memory.

    .txt              one document, whatever its length
    a folder of .txt  each is one
    other rows        each is one, by a template

A long document comes in pieces of at least PIECE characters, cut where a line ends and the next begins with a word, so that
a byte-level tokenizer makes the same tokens of the pieces as of the whole. The end of each file may be held out: what lies
behind a share of its characters, by whole lines or rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctxtune.data.open import SPOOL, open_lines, said_name
from ctxtune.data.read import Row, stream_rows
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from ctxtune.data.files import Files
    from ctxtune.data.render import Template

PIECE = 1 << 18
_LONGEST = 4 * PIECE  # a piece is cut here at the latest, wherever the next word begins

File = tuple["Path", "Files"]


@dataclass(frozen=True)
class Piece:
    """Some text; whether a document `begins` with it, and whether it is `held` out."""

    text: str
    begins: bool
    held: bool = False


def files_of(found: Iterable[Files]) -> list[File]:
    """Every file of a corpus, in order."""
    return [(path, files) for files in found for path in files.paths]


def survey(
    files: Iterable[File], template: Template, look: Callable[[str, bool], None] = lambda text, begins: None
) -> list[int]:
    """The characters of each file, of which a share can be held out; `look` sees all text, and where a document begins.

    Raises:
        DataError: a file or a row is wrong, or there is nothing to read.
    """
    sizes = []
    for path, of in files:
        size = 0
        for text, begins in _texts(path, of, template):
            look(text, begins)
            size += len(text)
        sizes.append(size)
    if not sum(sizes):
        raise DataError("the corpus holds no text", "name files with text: --train FILE")
    return sizes


def documents(
    files: Iterable[File], template: Template, sizes: Sequence[int] | None = None, held_out: float = 0.0,
    dropped: Iterator[bool] | None = None,
) -> Iterator[Piece]:  # fmt: skip
    """The pieces of every file, in order; behind 1 - `held_out` of the `sizes` of each what is held out.

    `dropped` says of each document whether it is left out.
    """
    for number, (path, of) in enumerate(files):
        most = sizes[number] * (1 - held_out) if sizes is not None else None
        texts = _texts(path, of, template)
        yield from _pieces(texts if dropped is None else _left(texts, dropped), most)


def as_it_came(files: Files) -> Files:
    """What came through a pipe is JSON lines if its first line is one, and else a text."""
    if files.name.name != SPOOL:
        return files
    with open_lines(files.name) as lines:
        first = next((line.strip() for line in lines if line.strip()), "")
    return files if first.startswith("{") and first.endswith("}") else replace(files, format="txt")


def whole(files: Iterable[File], template: Template, held_out: float = 0.0) -> tuple[list[Row], list[Row]]:
    """Every document as a row with the field `text`; and those, or their ends, that are held out of each file.

    Raises:
        DataError: a file or a row is wrong.
    """
    kept, held = list[Row](), list[Row]()
    for path, of in files:
        sizes = [sum(len(text) for text, _ in _texts(path, of, template))] if held_out else None
        found = list[tuple[bool, list[str]]]()
        for piece in documents([(path, of)], template, sizes, held_out):
            if piece.begins:
                found.append((piece.held, []))
            found[-1][1].append(piece.text)
        for number, (out, texts) in enumerate(found, 1):
            (held if out else kept).append(Row({"text": "".join(texts)}, said_name(path), number, "document"))
    return kept, held


def _left(texts: Iterable[tuple[str, bool]], dropped: Iterator[bool]) -> Iterator[tuple[str, bool]]:
    out = False
    for text, begins in texts:
        out = next(dropped) if begins else out
        if not out:
            yield text, begins


def _texts(path: Path, files: Files, template: Template) -> Iterator[tuple[str, bool]]:
    """The text of a file, a line or a row at a time, and whether a document begins with it; what is blank is no document."""
    if files.format not in ("txt", "texts"):
        for row in stream_rows(path, files):
            if (text := template.render(row)).strip():
                yield text, True
        return
    blank, begun = "", False
    with open_lines(path) as lines:
        for line in lines:
            blank += line.removesuffix("\r\n") + "\n" if line.endswith("\r\n") else line
            if len(blank) > _LONGEST:
                raise DataError(
                    f"{said_name(path)}: a line, or blank lines, of more than {_LONGEST:,} characters",
                    "is it text? break long lines where sentences end",
                )
            if not blank.isspace():  # blank lines at the start and at the end are no text
                yield blank if begun else blank.lstrip("\n"), not begun
                blank, begun = "", True


def _pieces(texts: Iterable[tuple[str, bool]], most: float | None) -> Iterator[Piece]:
    """Texts put together to pieces; what reaches beyond `most` characters is held out, and begins anew."""
    waiting, size, total, begins, held = list[str](), 0, 0, True, False
    for text, new in texts:
        out = held or (most is not None and total + len(text) / 2 > most)
        total += len(text)
        if waiting and (new or out != held or _may_cut(waiting[-1], text, size)):
            yield Piece("".join(waiting), begins, held)
            waiting, size, begins = [], 0, new or out != held
        waiting.append(text)
        size, held = size + len(text), out
    if waiting:
        yield Piece("".join(waiting), begins, held)


def _may_cut(last: str, following: str, size: int) -> bool:
    if size < PIECE:
        return False
    return size >= _LONGEST or not (last[-2:-1].isspace() or following[:1].isspace())
