"""The container of masks: what is written is read again, and a file that contradicts itself is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ctxtune.adapter.header import read_header
from ctxtune.adapter.mask import SIZES, encode, is_mask, read_mask, sizes_text
from ctxtune.backend.mask import Part
from ctxtune.errors import AdapterError

from .conftest import drawn

if TYPE_CHECKING:
    from pathlib import Path

    from ctxtune.backend.mask import Kind, Mask


def written(path: Path, mask: Mask, more: dict[str, Any] | None = None, drop: str = "", sizes: str = "") -> Path:
    tensors: dict[str, Any] = {f"{name}.{part.kind}": encode(part) for name, part in mask.items()}
    tensors |= {f"{name}.delta": np.zeros(part.shape, np.float32) for name, part in mask.items()}
    tensors |= more or {}
    tensors.pop(drop, None)
    save_file(tensors, path, metadata={SIZES: sizes} if sizes else sizes_text(mask))
    return path


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.4, 1.0])
@pytest.mark.parametrize("kind", ["rows", "columns", "blocks", "entries", "whole"])
def test_what_is_written_is_read_again(kind: Kind, share: float, tmp_path: Path) -> None:
    mask: Mask = {"a.weight": drawn(kind, share), "b.bias": drawn("entries", share, (5000,))}
    path = written(tmp_path / "mask.safetensors", mask)
    header = read_header(path)
    assert is_mask(header)
    found = read_mask(path, header)
    for name, part in mask.items():
        assert (found[name].kind, found[name].size) == (part.kind, part.size)
        assert np.array_equal(found[name].index, part.index)


@pytest.mark.parametrize(
    "index", [[0], [254], [255], [256], [510, 511], [0, 1, 2], [65534], [65535, 70000], [3, 258, 514, 99_999]]
)
def test_gaps_at_the_ends_of_their_units(index: list[int], tmp_path: Path) -> None:
    mask: Mask = {"a": Part("entries", (100_000,), np.array(index))}
    path = written(tmp_path / "mask.safetensors", mask)
    assert read_mask(path, read_header(path))["a"].index.tolist() == index


def test_the_bytes_of_an_entry() -> None:
    """One in a hundred of a million: 3.1 with its bfloat16; rows and columns 2 and nearly nothing."""
    part = drawn("entries", 0.01, (1000, 1000))
    assert encode(part).nbytes / part.numel < 1.15
    assert encode(drawn("entries", 0.0001, (1000, 1000))).nbytes <= 200
    columns = drawn("columns", 0.01, (1000, 1000))
    assert encode(columns).nbytes / columns.numel < 0.01


ROWS = {"a": Part("rows", (4, 6), np.array([1, 3]))}
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"more": {"a.rows": np.array([3, 1], np.int32)}}, "each larger than the last"),
    ({"more": {"a.rows": np.array([1, 4], np.int32)}}, "numbers from 0 to 3"),
    ({"more": {"a.rows": np.array([-1, 3], np.int32)}}, "numbers from 0 to 3"),
    ({"more": {"a.rows": np.array([1, 3], np.int64)}}, "a list of I32 is needed"),
    ({"more": {"a.rows": np.array([[1, 3]], np.int32)}}, "a list of I32 is needed"),
    ({"more": {"a.columns": np.array([1], np.int32)}}, "2 tensors say what is chosen of 'a'"),
    ({"drop": "a.rows"}, "0 tensors say what is chosen of 'a'"),
    ({"more": {"a.delta": np.zeros((2, 5), np.float32)}}, r"\[2, 5\] numbers, its mask chooses \[2, 6\]"),
    ({"more": {"b.rows": np.array([0], np.int32)}}, "'b.rows' belongs to no parameter"),
    ({"more": {"a.delta": np.zeros((2, 6), np.int32)}}, "is of type I32, changes are floats"),
    ({"sizes": "{"}, "not valid JSON"),
    ({"sizes": "{}"}, "does not say how large"),
    ({"sizes": "[]"}, "does not say how large"),
    ({"sizes": json.dumps({"a": [4, -6]})}, "does not say how large"),
    ({"sizes": json.dumps({"a": [4, True]})}, "does not say how large"),
    ({"sizes": json.dumps({"a": [2**40, 2**40]})}, "does not say how large"),
    ({"sizes": json.dumps({"a": [24]})}, "numbers, its mask chooses"),
]


@pytest.mark.parametrize(("given", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_a_file_that_contradicts_itself(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "mask.safetensors", ROWS, **given)
    with pytest.raises(AdapterError, match=said):
        read_mask(path, read_header(path))


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (np.array([5, 255], np.uint8), "ends within a distance"),
        (np.array([200, 200], np.uint8), "numbers from 0 to 23"),
        (np.array([1.0], np.float32), "a list of U8 or U16"),
    ],
)
def test_broken_distances(stored: Any, said: str, tmp_path: Path) -> None:
    part = Part("entries", (4, 6), np.array([5]))
    path = written(tmp_path / "mask.safetensors", {"a": part}, {"a.entries": stored})
    with pytest.raises(AdapterError, match=said):
        read_mask(path, read_header(path))
