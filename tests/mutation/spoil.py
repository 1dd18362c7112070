"""Good files, spoilt: bytes, texts and JSON values changed at random, and lies that chance would not find."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

SNIPPETS = [
    *"\0\t\n\r\x0b\x85:,#&*!|>'\"%@`{}[]?=~<-.+0",
    *["\n  ", "- ", ": ", "---\n", "...\n", "&a ", "*a", "!!int ", "<<: ", "{{", "}}", "[[", "null", "true", ".nan"],
    *["1e999", "-1", "9" * 50, "\ud7ff", "é", "😀", "\u2028", "\\ud800", '"\\0"', "train:", "method:\n", "%YAML 1.2\n"],
    *["ctxtune: 2", "model: [1]", "{a: b}", "a" * 2000],
]
WRONG: list[Any] = [
    None, True, -1, 0, 1, 2.5, 10**6, 10**9, 10**30, 1e308, "", "x", "\0", "../../etc/passwd", "a" * 5000, [], [1], [[[]]],
    {}, {"x": 1}, {"auto_map": {"AutoConfig": "x.Y"}}, "\U0001f600", -(10**18),
]  # fmt: skip


def spoil_text(text: str, chance: random.Random) -> bytes:
    """A few places of a text cut out, doubled or replaced; now and then a byte that is no UTF-8, or the end cut off."""
    for _ in range(chance.randrange(1, 4)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 0, 1, 3, 20]))
        text = text[:start] + chance.choice([*SNIPPETS, text[start:end] * 3, ""]) + text[end:]
    raw = text.encode("utf-8")
    if chance.random() < 0.1:
        at = chance.randrange(len(raw) + 1)
        raw = raw[:at] + bytes([chance.randrange(128, 256)]) + raw[at:]
    return raw[: chance.randrange(len(raw) + 1)] if chance.random() < 0.1 else raw


def spoil_bytes(raw: bytes, chance: random.Random) -> bytes:
    """A file cut short, with flipped bits, with a part moved, doubled or zeroed, or with something before or behind it."""
    at, to = sorted(chance.randrange(len(raw) + 1) for _ in range(2))
    to = min(to, at + chance.choice([1, 8, 64, 4096]))
    near = chance.randrange(min(len(raw), 600))
    changes: list[Callable[[], bytes]] = [
        lambda: raw[:at],
        lambda: raw[:near],
        lambda: raw[:at] + bytes(byte ^ 0xFF for byte in raw[at:to]) + raw[to:],
        lambda: raw[:near] + bytes([raw[near] ^ (1 << chance.randrange(8))]) + raw[near + 1 :],
        lambda: raw[:at] + b"\0" * (to - at) + raw[to:],
        lambda: raw[:to] + raw[at:],
        lambda: raw[:at] + raw[to:],
        lambda: b"\xff\xfe" + raw,
        lambda: b"PK\x03\x04" + raw,
        lambda: raw + b"\n\0{",
        lambda: bytes(chance.randrange(256) for _ in range(300)),
        lambda: b"",
    ]
    return chance.choice(changes)()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a JSON document but the document itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def spoil_json(document: Any, chance: random.Random, deepest: int = 3) -> Any:
    """One value of a JSON document missing, of another type, far too large, or under another name."""
    document = json.loads(json.dumps(document))
    *way, last = chance.choice([path for path in places(document) if len(path) <= deepest])
    inside = document
    for key in way:
        inside = inside[key]
    deed = chance.randrange(6)
    if deed == 0:
        del inside[last]
    elif deed == 1 and isinstance(inside, dict):
        inside[chance.choice([f"{last}x", "__metadata__", "auto_map", ""])] = inside.pop(last)
    else:
        inside[last] = chance.choice(WRONG)
    return document


def spoil_safetensors(raw: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose header lies: about a tensor, about itself, or about its length."""
    (length,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    deed = chance.randrange(4)
    if deed == 0:
        return struct.pack("<Q", chance.choice([0, 1, length - 1, length + 8, 1 << 40, (1 << 64) - 1])) + raw[8:]
    if deed == 1:
        name = chance.choice([key for key in header if key != "__metadata__"])
        field = chance.choice(["dtype", "shape", "data_offsets"])
        header[name][field] = chance.choice([*WRONG, [10**9, 10**9], [0, 10**12], [-4, 4], "F64", "BOOL"])
    else:
        header = spoil_json(header, chance)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + body
