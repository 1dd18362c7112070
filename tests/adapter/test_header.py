"""A header is believed only when every byte of the file is accounted for."""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ctxtune.adapter.header import manifest, read_header
from ctxtune.backend.tensors import MAX_HEADER, write_tensors
from ctxtune.errors import AdapterError, ModelError

if TYPE_CHECKING:
    from pathlib import Path


def pack(fields: Any, data: bytes = b"") -> bytes:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + data


def one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.zeros((0, 4), "f8"), "c": np.array(True)}
    save_file(arrays, tmp_path / "x", metadata={"format": "pt", "ctxtune": '{"format": 1}'})
    header = read_header(tmp_path / "x")
    data = (tmp_path / "x").read_bytes()
    for name, array in arrays.items():
        info = header.tensors[name]
        assert info.shape == array.shape
        assert data[info.begin : info.end] == array.tobytes()
        assert info.numel == array.size
    assert header.file_size == len(data)
    assert manifest(header) == {"format": 1}


def test_no_manifest(tmp_path: Path) -> None:
    save_file({"a": np.zeros(2)}, tmp_path / "x")
    assert manifest(read_header(tmp_path / "x")) is None


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "9" * 10_000])
def test_broken_manifest(text: str, tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {}, {"ctxtune": text}, lambda name: b"")
    with pytest.raises(AdapterError, match="manifest in the adapter's header is not"):
        manifest(read_header(tmp_path / "x"))


LIES = {
    "empty file": (b"", "not a safetensors file"),
    "short length": (b"\1\0\0", "not a safetensors file"),
    "no header": (struct.pack("<Q", 0), "not a safetensors file"),
    "length past the end": (struct.pack("<Q", 1000) + b"{}", "cut short"),
    "huge length": (struct.pack("<Q", 2**63) + b"{}", "cut short"),
    "pickle": (b"\x80\x02}q\x00(X\x06\x00\x00\x00weight" * 4, "not a safetensors file"),
    "not JSON": (pack(b"{nonsense"), "not valid JSON"),
    "not UTF-8": (pack(b'{"\xff": 1}'), "not valid JSON"),
    "deep": (pack(b"[" * 200_000), "not valid JSON"),
    "long number": (pack(b'{"a": ' + b"9" * 9999 + b"}"), "not valid JSON"),
    "NaN": (pack(b'{"a": NaN}'), "not valid JSON"),
    "a list": (pack([1]), "not a JSON object"),
    "a name twice": (pack(b'{"a": 1, "a": 2}'), "a name stands twice"),
    "metadata of numbers": (pack({"__metadata__": {"x": 1}}), "must be texts"),
    "metadata is a list": (pack({"__metadata__": []}), "must be texts"),
    "tensor is a number": (pack({"a": 1}), "'a' must have exactly"),
    "more keys": (pack(one(more=1), bytes(8)), "'a' must have exactly"),
    "unknown dtype": (pack(one(dtype="F33"), bytes(8)), "unknown dtype 'F33'"),
    "dtype is a list": (pack(one(dtype=[]), bytes(8)), "unknown dtype"),
    "wrong dtype": (pack(one(dtype="F64"), bytes(8)), "does not fill"),
    "negative shape": (pack(one(shape=[-2]), bytes(8)), "impossible shape"),
    "fractional shape": (pack(one(shape=[2.0]), bytes(8)), "impossible shape"),
    "boolean shape": (pack(one(shape=[True, 2]), bytes(8)), "impossible shape"),
    "huge shape": (pack(one(shape=[2**64]), bytes(8)), "impossible shape"),
    "many dimensions": (pack(one(shape=[1] * 10_000 + [2]), bytes(8)), "impossible shape"),
    "shape is a text": (pack(one(shape="2"), bytes(8)), "impossible shape"),
    "offsets backwards": (pack(one(data_offsets=[8, 0]), bytes(8)), "impossible data_offsets"),
    "three offsets": (pack(one(data_offsets=[0, 8, 8]), bytes(8)), "impossible data_offsets"),
    "gap before": (pack(one(data_offsets=[8, 16]), bytes(16)), "does not begin where the header ends"),
    "bytes after": (pack(one(), bytes(9)), "the header promises"),
    "bytes missing": (pack(one(), bytes(7)), "the header promises"),
    "overlap": (
        pack({**one(), "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
        "'b' does not",
    ),
    "the same bytes twice": (pack({**one(), "b": one()["a"]}, bytes(8)), "'b' does not begin"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies(name: str, tmp_path: Path) -> None:
    data, message = LIES[name]
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(AdapterError, match=message) as caught:
        read_header(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_length_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1))
        file.truncate(MAX_HEADER + 100)  # a file of holes: takes no room
    with pytest.raises(AdapterError, match="not a safetensors file"):
        read_header(tmp_path / "x")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in (".", "pipe", "loop", "missing", "nul\0", "n" * 5000):
        with pytest.raises(AdapterError, match=r"is not a file|cannot be read"):
            read_header(tmp_path / name)
    with pytest.raises(AdapterError, match="is not a file"):
        read_header(tmp_path.joinpath("/dev/zero"))


def test_base_models_get_their_own_error(tmp_path: Path) -> None:
    from ctxtune.backend.tensors import read_header as read

    with pytest.raises(ModelError) as caught:
        read(tmp_path / "missing")
    assert type(caught.value) is ModelError
