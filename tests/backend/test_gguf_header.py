"""The header of a GGUF file: what gguf's own writer wrote, and every lie in a bounded time."""

from __future__ import annotations

import random
import resource
import struct
import time
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from ctxtune.backend.gguf_header import BLOCKS, MAX_ITEMS, Items, read_gguf_header
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURE = ("general.architecture", 8, "llama")


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: object) -> bytes:
    start = text(name) + struct.pack("<I", kind)
    if isinstance(value, bytes):
        return start + value
    return start + (text(value) if isinstance(value, str) else struct.pack("<I", value))


def tensor(name: str, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in dims)
    return text(name) + struct.pack("<I", len(dims)) + sizes + struct.pack("<IQ", kind, offset)


def file(
    path: Path, keys: list[bytes], tensors: list[bytes], data: int = 0, counts: tuple[int, int] | None = None
) -> Path:
    tensor_count, key_count = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", 3, tensor_count, key_count) + b"".join(keys + tensors)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(data))
    return path


def test_types_are_those_of_ggml() -> None:
    for kind, (name, items, num_bytes) in BLOCKS.items():
        known = gguf.GGMLQuantizationType(kind)
        assert (known.name, gguf.GGML_QUANT_SIZES[known]) == (name, (items, num_bytes))


def test_what_the_writer_wrote(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(0.5)
    writer.add_bool("some.flag", True)
    writer.add_chat_template("{{ messages }}")
    writer.add_token_list(["a", "bc", "é"])
    writer.add_token_types([1, 2, 3])
    writer.add_custom_alignment(64)
    values = np.arange(96, dtype="f4").reshape(3, 32)
    writer.add_tensor("one", values)
    packed = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("two", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_gguf_header(tmp_path / "m.gguf")
    assert header.architecture == "llama"
    assert header.keys["llama.context_length"] == 128
    assert header.keys["llama.attention.layer_norm_rms_epsilon"] == 0.5
    assert header.keys["some.flag"] is True
    assert header.keys["tokenizer.chat_template"] == "{{ messages }}"
    assert header.keys["tokenizer.ggml.tokens"] == header.keys["tokenizer.ggml.token_type"] == Items(3)
    data = (tmp_path / "m.gguf").read_bytes()
    one, two = header.tensors["one"], header.tensors["two"]
    assert (one.dtype, one.shape, one.numel, data[one.begin : one.end]) == ("F32", (3, 32), 96, values.tobytes())
    assert (two.dtype, two.shape, data[two.begin : two.end]) == ("Q8_0", (3, 32), packed.tobytes())


A = key(*ARCHITECTURE)
HUGE = 2**63
LIES = {
    "another magic": (b"GGML" + bytes(60), "is not a GGUF file"),
    "empty": (b"", "has only 0 bytes"),
    "an unknown version": (b"GGUF" + struct.pack("<IQQ", 9, 0, 0) + bytes(40), "version 9"),
    "the other byte order": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(40), "version 50331648"),
}
BUILT: dict[str, tuple[list[bytes], list[bytes], tuple[int, int] | None, str]] = {
    "no architecture": ([], [], None, "does not say its architecture"),
    "an architecture that is a number": (
        [key("general.architecture", 4, 7)],
        [],
        None,
        "does not say its architecture",
    ),
    "billions of keys": ([A], [], (0, HUGE), "promises 9,223,372,036,854,775,808 keys"),
    "billions of tensors": ([A], [], (HUGE, 1), "promises 1 keys and"),
    "more keys than there are": ([A], [], (0, 60_000), "ends inside its header|stands twice"),
    "more tensors than there are": ([A], [], (60_000, 1), "ends inside its header|0 dimensions"),
    "a text of 2^63 bytes": ([A, key("k", 8, struct.pack("<Q", HUGE))], [], None, "text of 9,223,372"),
    "a text past the end": ([A, key("k", 8, struct.pack("<Q", 1 << 20))], [], None, "ends inside its header"),
    "a text that is no UTF-8": ([A, key("k", 8, text(b"\xff\xfe"))], [], None, "not UTF-8"),
    "a name of a gigabyte": ([A, struct.pack("<Q", 1 << 30)], [], None, "text of 1,073,741,824"),
    "a key that stands twice": ([A, A], [], None, "stands twice"),
    "an unknown type": ([A, key("k", 77, 0)], [], None, "unknown type 77"),
    "an array of 2^63": ([A, key("k", 9, struct.pack("<IQ", 4, HUGE))], [], None, f"more than {MAX_ITEMS:,} items"),
    "an array past the end": ([A, key("k", 9, struct.pack("<IQ", 4, 1000))], [], None, "ends inside its header"),
    "texts past the end": ([A, key("k", 9, struct.pack("<IQ", 8, 1000))], [], None, "ends inside"),
    "an array of arrays": ([A, key("k", 9, struct.pack("<IQ", 9, 1))], [], None, "array of the unknown type 9"),
    "an alignment of nothing": ([A, key("general.alignment", 4, 0)], [], None, "not a small power of two"),
    "an alignment of three": ([A, key("general.alignment", 4, 3)], [], None, "not a small power of two"),
    "a tensor outside the file": ([A], [tensor("t", [8], offset=1 << 40)], None, "the header promises"),
    "a tensor too large": ([A], [tensor("t", [HUGE, HUGE])], None, "the header promises"),
    "a tensor off the grid": ([A], [tensor("t", [8], offset=4)], None, "multiple of 32"),
    "tensors over one another": ([A], [tensor("t", [16]), tensor("u", [16], offset=32)], None, "lies over another"),
    "a tensor that stands twice": ([A], [tensor("t", [8]), tensor("t", [8], offset=32)], None, "stands twice"),
    "half a block": ([A], [tensor("t", [33], kind=8)], None, "impossible shape"),
    "a tensor of nothing": ([A], [tensor("t", [0])], None, "impossible shape"),
    "no dimension": ([A], [tensor("t", [])], None, "0 dimensions"),
    "many dimensions": ([A], [tensor("t", [1] * 5)], None, "5 dimensions"),
    "an unknown tensor type": ([A], [tensor("t", [8], kind=4)], None, "unknown type 4"),
}


@pytest.mark.parametrize(("data", "said"), LIES.values(), ids=LIES)
def test_no_gguf(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(ModelError, match=said):
        read_gguf_header(tmp_path / "m.gguf")


@pytest.mark.parametrize(("keys", "tensors", "counts", "said"), BUILT.values(), ids=BUILT)
def test_a_lying_header(
    keys: list[bytes], tensors: list[bytes], counts: tuple[int, int] | None, said: str, tmp_path: Path
) -> None:
    begun = time.monotonic()
    with pytest.raises(ModelError, match=said) as caught:
        read_gguf_header(file(tmp_path / "m.gguf", keys, tensors, 128, counts))
    assert time.monotonic() - begun < 1
    assert "\n" not in str(caught.value)


def test_a_sound_one_is_read(tmp_path: Path) -> None:
    """The files above are wrong in one thing each."""
    header = read_gguf_header(file(tmp_path / "m.gguf", [A], [tensor("t", [8, 2]), tensor("u", [8], offset=64)], 96))
    assert [info.shape for info in header.tensors.values()] == [(2, 8), (8,)]


def test_a_large_array_of_texts_takes_bounded_time_and_memory(tmp_path: Path) -> None:
    """The most that is counted, and nothing of it is kept."""
    keys = [A, key("k", 9, struct.pack("<IQ", 8, MAX_ITEMS) + bytes(8 * MAX_ITEMS))]
    path = file(tmp_path / "m.gguf", keys, [])
    before = resource.getrusage(resource.RUSAGE_SELF)
    assert read_gguf_header(path).keys["k"] == Items(MAX_ITEMS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before.ru_utime < 2


def test_any_change_of_a_byte_is_read_or_refused(tmp_path: Path) -> None:
    """Truncated, a byte changed, a piece doubled: never another error, never for long."""
    sound = file(
        tmp_path / "m.gguf", [A, key("k", 9, struct.pack("<IQ", 8, 2) + text("a") * 2)], [tensor("t", [8])], 32
    )
    data = sound.read_bytes()
    chance = random.Random(0)
    refused = 0
    begun = time.monotonic()
    for _ in range(500):
        place = chance.randrange(len(data))
        changed = [
            data[:place],
            data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :],
            data[:place] + data[place // 2 :],
        ][chance.randrange(3)]
        sound.write_bytes(changed)
        try:
            read_gguf_header(sound)
        except ModelError:
            refused += 1
    assert refused > 200
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("name", ["missing.gguf", "."])
def test_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be read|is not a file"):
        read_gguf_header(tmp_path / name)
