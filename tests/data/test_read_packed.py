"""Packed text: the rows of the file itself, and an error for whatever is cut off, damaged, misnamed or far too large."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from backports import zstd

from ctxtune.data import open as open_module
from ctxtune.data.open import FREE_BYTES, MAX_BYTES, most_bytes
from ctxtune.data.read import read_rows
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Pack = Callable[[bytes], bytes]

PACK: dict[str, Pack] = {".gz": gzip.compress, ".zst": zstd.compress}
TEXTS = {
    "a.jsonl": b'{"text": "a"}\n{"text": "b"}\n',
    "a.json": b'[{"text": "a"},\n {"text": "b"}]',
    "a.csv": b"\xef\xbb\xbftext\r\na\r\nb\r\n",
    "a.tsv": b"text\na\nb",
    "a.txt": b"a\nb\n",
}
packing = pytest.mark.parametrize("suffix", PACK)


def noise(count: int) -> bytes:
    """Rows that do not shrink much."""
    chance = random.Random(0)
    return b"".join(json.dumps({"text": f"{chance.getrandbits(160):x}", "n": n}).encode() + b"\n" for n in range(count))


@packing
@pytest.mark.parametrize("name", TEXTS)
def test_every_text_may_be_packed(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / (name + suffix)
    path.write_bytes(PACK[suffix](TEXTS[name]))
    (tmp_path / name).write_bytes(TEXTS[name])
    rows = read_rows(path)
    assert [row.fields for row in rows] == [{"text": "a"}, {"text": "b"}]
    assert [row.line for row in rows] == [row.line for row in read_rows(tmp_path / name)]
    assert {row.source for row in rows} == {str(path)}


@packing
def test_parts_written_one_behind_the_other_are_one_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix.upper()}"
    path.write_bytes(PACK[suffix](b"one\ntw") + PACK[suffix](b"o\nthree"))
    assert [row.fields["text"] for row in read_rows(path)] == ["one", "two", "three"]


@packing
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, -1])
def test_cut_off(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    whole = PACK[suffix](noise(3000))
    path.write_bytes(whole[: keep if keep < 0 else int(len(whole) * keep)])
    with pytest.raises(DataError, match=r"a\.jsonl\.\w+ (is cut off|line \d+ column \d+: broken JSON)"):
        read_rows(path)


@packing
def test_every_spoilt_byte_ends_in_an_error_or_in_rows(tmp_path: Path, suffix: str) -> None:
    path, whole = tmp_path / f"a.jsonl{suffix}", PACK[suffix](noise(20))
    chance, said = random.Random(1), []
    for _ in range(150):
        spoilt = bytearray(whole)
        spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        path.write_bytes(spoilt)
        try:
            read_rows(path)
        except DataError as error:
            said.append(str(error))
    assert len(said) > 50
    assert all(text.startswith(str(path)) and "\n" not in text for text in said)


UNKIND: list[tuple[str, bytes, str]] = [
    ("plain.jsonl.gz", b'{"text": "a"}\n', r"cannot be unpacked: Not a gzipped file"),
    ("plain.jsonl.zst", b'{"text": "a"}\n', r"cannot be unpacked: "),
    ("swapped.jsonl.gz", zstd.compress(b"{}"), r"cannot be unpacked: Not a gzipped file"),
    ("swapped.jsonl.zst", gzip.compress(b"{}"), r"cannot be unpacked: "),
    ("packed.jsonl", gzip.compress(b"{}"), r"is gzip$"),
    ("packed.csv", zstd.compress(b"a\nb"), r"is zstd$"),
    ("zipped.csv", b"PK\x03\x04", r"is zip$"),
    ("twice.txt.gz", gzip.compress(gzip.compress(b"a")), r"is gzip$"),
    ("binary.txt.gz", gzip.compress(b"a\0b"), r"line 1: a NUL byte at byte 1"),
    ("utf16.csv.zst", zstd.compress("text\na\n".encode("utf-16")), r"is UTF-16 text$"),
    ("latin.txt.gz", gzip.compress(b"a\n\xe4"), r"line 2: byte 0xe4 at byte 2 of the file is not UTF-8"),
    ("empty.jsonl.gz", b"", r"has no rows"),
    ("empty.csv.gz", gzip.compress(b""), r"has no rows"),
    ("empty.txt.zst", zstd.compress(b""), r"has no rows"),
    ("broken.jsonl.gz", gzip.compress(b"{}\n{"), r"line 2 column 2: broken JSON"),
    ("bare.gz", gzip.compress(b"a"), r"a name without a suffix tells no format"),
    ("odd.bin.gz", gzip.compress(b"a"), r"the suffix '\.bin' names no known format"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), UNKIND, ids=[name for name, _, _ in UNKIND])
def test_unkind_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_the_bound() -> None:
    assert most_bytes(0) == most_bytes(1000) == FREE_BYTES
    assert most_bytes(1 << 20) == 100 << 20
    assert most_bytes(1 << 40) == MAX_BYTES


@packing
@pytest.mark.parametrize("content", [b" ", b"a"])
def test_a_bomb_is_an_error_that_costs_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, content: bytes
) -> None:
    monkeypatch.setattr(open_module, "FREE_BYTES", 1 << 20)
    path = tmp_path / f"bomb.txt{suffix}"
    path.write_bytes(PACK[suffix](content * (1 << 23)))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb\.txt\.\w+ unpacks to more than 1,048,576 bytes") as caught:
        read_rows(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.hint == "if you trust it, unpack it and name what comes out"
    assert peak < 6 << 20


@packing
def test_a_large_file_of_ordinary_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(open_module, "FREE_BYTES", 1 << 10)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACK[suffix](noise(10_000)))
    assert len(read_rows(path)) == 10_000
    monkeypatch.setattr(open_module, "MAX_BYTES", 1 << 19)
    with pytest.raises(DataError, match="unpacks to more than 524,288 bytes"):
        read_rows(path)
