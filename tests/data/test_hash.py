from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from ctxtune.data.hash import sha256_file
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = b"ab\0\xff" * 600_000  # more than one piece
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_what_cannot_be_hashed_says_so(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    with pytest.raises(DataError, match=r"tarin\.csv does not exist") as caught:
        sha256_file(tmp_path / "tarin.csv")
    assert caught.value.hint == "did you mean train.csv"
    with pytest.raises(DataError, match="is a folder"):
        sha256_file(tmp_path)
    with pytest.raises(DataError, match="is not a regular file"):
        sha256_file("/dev/zero")
