"""Files of strangers, opened: regular, unpacked within bounds, and read as lines of UTF-8.

What is packed (.gz, .zst) may say little and mean much: a megabyte of zeros is a kilobyte of gzip. So the bytes that come
out of a file of `size` bytes are counted, and more than

    most_bytes(size) = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * size))

of them are an error. Text rarely shrinks below a tenth of itself; FREE_BYTES leave small files of like rows alone.
"""

from __future__ import annotations

import difflib
import gzip
import io
import os
import stat
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ctxtune.data.format import data_files, is_packed
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SPOOL = "stdin.jsonl"  # what came through a pipe is kept under this name, and called by its own in messages
BOM = b"\xef\xbb\xbf"
MAX_RATIO = 100  # times a packed file's own size
FREE_BYTES = 1 << 24
MAX_BYTES = 1 << 32
# How files begin that are not the text which their names promise, and what helps.
MAGIC = {
    b"\x1f\x8b": ("gzip", "end its name in .gz, as in train.jsonl.gz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "end its name in .zst, as in train.jsonl.zst"),
    b"PAR1\x15": ("parquet", "end its name in .parquet"),
    b"PK\x03\x04": ("zip", "unpack it first"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
}

# What helps where it has come through a pipe, which has no name.
PIPED = {
    "gzip": "unpack it in the pipe: gzip -dc FILE | ctxtune ...",
    "zstd": "unpack it in the pipe: zstd -dc FILE | ctxtune ...",
    "parquet": "name the file: a pipe holds JSON lines",
    "zip": "unpack it first: a pipe holds JSON lines",
}


def said_name(path: Path | str) -> str:
    """What a file is called in messages: where standard input has been put is not what the user knows it by."""
    return "standard input" if Path(path).name == SPOOL else str(path)


def open_file(path: Path | str) -> BinaryIO:
    """The file in bytes, as they lie there; a folder, a device or a missing file is refused with what may be meant."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path} does not exist", _nearest(Path(path))) from error
    except ValueError as error:  # a NUL byte in the name
        raise DataError(f"{str(path)!r} is not a file name") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is a folder, not a file", inside(Path(path)))
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is not a regular file", "save it to a file first, or pipe it in and name it -")
    return open(path, "rb")


@contextmanager
def open_lines(path: Path | str) -> Iterator[Iterator[str]]:
    """The file's lines as text, ends included, unpacked if its name says that it is packed.

    Raises:
        DataError: it cannot be read, is cut off, is no text, or unpacks to more than it may.
    """
    try:
        with open_file(path) as raw:
            yield _lines(_unpacked(raw, Path(path)) if is_packed(Path(path)) else raw, said_name(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def most_bytes(size: int) -> int:
    """How many bytes may come out of a packed file of `size` bytes."""
    return min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * size))


def too_much(source: str, most: int) -> DataError:
    """What is said of a file that unpacks to more than `most` bytes."""
    return DataError(
        f"{source} unpacks to more than {most:,} bytes, the most that is read from a packed file of its size",
        "if you trust it, unpack it and name what comes out",
    )


def inside(folder: Path) -> str:
    """A hint: which files of a folder one may have meant."""
    try:
        data = data_files(folder.iterdir())
    except OSError:
        data = []
    return f"name one of its files: {', '.join(data)}" if data else "name a data file"


def _nearest(path: Path) -> str:
    try:
        entries = list(path.parent.iterdir())
    except OSError:
        return f"the folder {path.parent} does not exist or cannot be read"
    stems: dict[str, list[str]] = {}  # all rows end alike: what they end in makes no two names similar
    for name in sorted(entry.name for entry in entries):
        stems.setdefault(_stem(name), []).append(name)
    near = [name for stem in difflib.get_close_matches(_stem(path.name), stems, n=3) for name in stems[stem]]
    if near:
        return f"did you mean {' or '.join(near[:3])}"
    data = data_files(entries)
    return f"{path.parent} has {', '.join(data)}" if data else f"{path.parent} has no data files"


def _stem(name: str) -> str:
    return name.partition(".")[0] or name


class _Bounded(io.RawIOBase):
    """What comes out of an unpacker, counted; its many errors become one."""

    def __init__(self, stream: BinaryIO, source: str, most: int) -> None:
        self.stream, self.source, self.most, self.count = stream, source, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        try:
            piece = self.stream.read(len(buffer))
        except EOFError as error:
            raise DataError(f"{self.source} is cut off: the packed data has no end", "copy it anew") from error
        except (gzip.BadGzipFile, zlib.error, _zstd_error()) as error:
            said = " ".join(str(error).split())[:100]
            raise DataError(f"{self.source} cannot be unpacked: {said}", "is it what its name says it is?") from error
        buffer[: len(piece)] = piece
        self.count += len(piece)
        if self.count > self.most:
            raise too_much(self.source, self.most)
        return len(piece)


def _unpacked(raw: BinaryIO, path: Path) -> Iterable[bytes]:
    stream: Any
    if path.suffix.lower() == ".gz":
        stream = gzip.GzipFile(fileobj=raw)
    else:
        from backports.zstd import ZstdFile

        stream = ZstdFile(raw)
    bounded: Any = _Bounded(stream, str(path), most_bytes(os.fstat(raw.fileno()).st_size))
    return io.BufferedReader(bounded, 1 << 16)


def _zstd_error() -> type[Exception]:
    from backports.zstd import ZstdError

    return ZstdError


def _lines(stream: Iterable[bytes], source: str) -> Iterator[str]:
    """The lines as text, ends included; bytes that are no text are refused with their place."""
    offset = 0
    for line, raw in enumerate(stream, 1):
        if line == 1:
            _check_start(raw, source)
            if raw.startswith(BOM):
                offset += len(BOM)
                raw = raw[len(BOM) :]
        if (at := raw.find(b"\0")) >= 0:
            raise DataError(
                f"{source} line {line}: a NUL byte at byte {offset + at} of the file", "this looks like a binary file"
            )
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{source} line {line}: byte 0x{raw[error.start]:02x} at byte {offset + error.start} of the file"
                " is not UTF-8",
                "save the file as UTF-8",
            ) from error
        offset += len(raw)
        yield text


def _check_start(raw: bytes, source: str) -> None:
    for magic, (kind, hint) in MAGIC.items():
        if raw.startswith(magic):
            raise DataError(f"{source} is {kind}", PIPED.get(kind, hint) if source == said_name(SPOOL) else hint)
