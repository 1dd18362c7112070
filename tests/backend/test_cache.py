"""The store of kept states: found again, never trusted, never in the way."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from ctxtune.backend import cache, stores
from ctxtune.backend.cache import keep_states, store_key
from ctxtune.errors import CtxtuneError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

LENGTHS = [3, 1, 4]
WIDTH = 5
NUM_BYTES = sum(LENGTHS) * WIDTH * 4


class Filler:
    """Fills a store with numbers that depend on `seed`, and counts how often it was asked."""

    def __init__(self, seed: int = 0, inside: Callable[[], None] = lambda: None) -> None:
        self.calls = 0
        self.seed = seed
        self.inside = inside

    def __call__(self, data: Tensor, offsets: Sequence[int]) -> None:
        self.calls += 1
        assert list(offsets) == [0, 3, 4, 8]
        data[:] = self.numbers()
        self.inside()

    def numbers(self) -> Tensor:
        return torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(self.seed))


def keep(where: str, fill: Filler, key: str = "key", lengths: Sequence[int] = LENGTHS) -> cache.States | None:
    return keep_states(key, lengths, WIDTH, where, fill)


def file() -> Path:
    return stores.folder() / "key.safetensors"


@pytest.mark.parametrize("where", ["auto", "disk"])
def test_a_second_run_finds_the_store(where: str) -> None:
    fill = Filler()
    first = keep(where, fill)
    second = keep(where, fill)
    assert first is not None
    assert second is not None
    assert (first.place, second.place, fill.calls) == ("disk", "kept", 1)
    assert torch.equal(first.data, fill.numbers())
    assert torch.equal(second.data, fill.numbers())
    assert first.digest == second.digest != "0" * 64


def test_the_file_is_plain_safetensors() -> None:
    fill = Filler()
    keep("disk", fill)
    tensors = load_file(file())
    assert list(tensors) == ["states"]
    assert torch.equal(tensors["states"], fill.numbers())
    assert [path.name for path in stores.folder().iterdir()] == ["key.safetensors"]


def test_memory_leaves_no_file() -> None:
    fill = Filler()
    states = keep("memory", fill)
    assert states is not None
    assert states.place == "memory"
    assert torch.equal(states.data, fill.numbers())
    assert not list(stores.folder().iterdir())


def test_equal_numbers_have_equal_digests_wherever_they_lie() -> None:
    memory, disk, other = keep("memory", Filler()), keep("disk", Filler()), keep("memory", Filler(1))
    assert memory is not None
    assert disk is not None
    assert other is not None
    assert memory.digest == disk.digest != other.digest


def test_off_keeps_nothing() -> None:
    fill = Filler()
    assert keep("off", fill) is None
    assert fill.calls == 0


def _flip(at: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(bytes(data))

    return flip


def _grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"\0")


def _as_text(path: Path) -> None:
    path.write_text("not a store", encoding="utf-8")


def _without_digest(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b"digest", b"figest"))


def _unreadable_length(path: Path) -> None:
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


BREAK = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut in the header": lambda path: os.truncate(path, 20),
    "empty": lambda path: os.truncate(path, 0),
    "a byte more": _grow,
    "first number": _flip(-NUM_BYTES),
    "last number": _flip(-1),
    "a letter of the header": _flip(30),
    "no digest": _without_digest,
    "a header without end": _unreadable_length,
    "not a store": _as_text,
}


@pytest.mark.parametrize("damage", BREAK.values(), ids=BREAK)
def test_a_broken_file_is_built_again(damage: Callable[[Path], None]) -> None:
    fill = Filler()
    keep("disk", fill)
    damage(file())
    states = keep("disk", fill)
    assert states is not None
    assert (states.place, fill.calls) == ("disk", 2)
    assert torch.equal(states.data, fill.numbers())
    third = keep("disk", fill)
    assert third is not None
    assert third.place == "kept"


def test_a_store_of_another_shape_is_built_again() -> None:
    fill = Filler()
    keep_states("key", [2, 2], WIDTH, "disk", lambda data, _: None)
    states = keep("disk", fill)
    assert states is not None
    assert states.place == "disk"
    assert torch.equal(states.data, fill.numbers())
    # As many numbers in another arrangement.
    wide = keep_states("key", [2, 2], 2 * WIDTH, "disk", lambda data, _: None)
    assert wide is not None
    assert wide.place == "disk"


def test_reading_never_changes_the_file() -> None:
    keep("disk", Filler())
    before = file().read_bytes()
    states = keep("disk", Filler())
    assert states is not None
    states.data.zero_()
    assert file().read_bytes() == before


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync", "replace"])
def test_a_full_disk_is_an_error_and_leaves_nothing(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(StorageError, match="No space left") as caught:
        keep("disk", Filler())
    assert "--cache" in str(caught.value.hint)
    assert not list(stores.folder().iterdir())


def test_auto_goes_to_memory_where_the_disk_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "free_bytes", lambda path: 2 * NUM_BYTES - 2)
    states = keep("auto", Filler())
    assert states is not None
    assert states.place == "memory"
    assert not list(stores.folder().iterdir())
    monkeypatch.setattr(cache, "free_bytes", lambda path: 2 * NUM_BYTES + 2)
    on_disk = keep("auto", Filler())
    assert on_disk is not None
    assert on_disk.place == "disk"


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync"])
def test_auto_goes_to_memory_where_the_disk_turns_out_full(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, call, no_space)
    states = keep("auto", Filler())
    assert states is not None
    assert states.place == "memory"


def test_auto_gives_up_where_nothing_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "free_bytes", lambda path: 0)
    monkeypatch.setattr(cache, "available_memory", lambda: 2 * NUM_BYTES - 2)
    fill = Filler()
    assert keep("auto", fill) is None
    assert fill.calls == 0


def test_memory_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "available_memory", lambda: NUM_BYTES - 1)
    with pytest.raises(CtxtuneError, match="the cache needs"):
        keep("memory", Filler())


def test_a_builder_that_fails_leaves_nothing() -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep("disk", Filler(inside=fail))
    assert not list(stores.folder().iterdir())
    states = keep("disk", Filler())
    assert states is not None
    assert states.place == "disk"


def test_two_builders_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process builds the same store while the first is at it: both go on, and a whole file stays."""
    own = os.getpid()
    second: list[cache.States | None] = []

    def other_process() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: own + 1)
            second.append(keep("disk", Filler()))

    first = keep("disk", Filler(inside=other_process))
    third = keep("disk", Filler())
    assert first is not None
    assert third is not None
    assert second[0] is not None
    assert (first.place, second[0].place, third.place) == ("disk", "disk", "kept")
    assert torch.equal(first.data, second[0].data)
    assert torch.equal(first.data, third.data)
    assert [path.name for path in stores.folder().iterdir()] == ["key.safetensors"]


def test_clearing_does_not_disturb_a_builder() -> None:
    def clear() -> None:
        stores.clear_stores()

    states = keep("disk", Filler(inside=clear))
    assert states is not None
    assert torch.equal(states.data, Filler().numbers())


def test_clearing_does_not_disturb_a_reader() -> None:
    keep("disk", Filler())
    states = keep("disk", Filler())
    assert states is not None
    stores.clear_stores()
    assert not file().exists()
    assert torch.equal(states.data, Filler().numbers())


def test_nobody_else_may_read(ctxtune_home: Path) -> None:
    modes: list[int] = []

    def look() -> None:
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in stores.folder().iterdir())

    before = os.umask(0)
    try:
        keep("disk", Filler(inside=look))
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert stat.S_IMODE(file().stat().st_mode) == 0o600
    for folder in (ctxtune_home, stores.folder()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_store_used_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    size = []
    for age, key in ((300, "used again"), (200, "old"), (100, "young")):
        keep("disk", Filler(), key)
        path = stores.folder() / f"{key}.safetensors"
        size.append(path.stat().st_size)
        os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    keep("disk", Filler(), "used again")
    for module in (cache, stores):
        monkeypatch.setattr(module, "LIMIT", sum(size) + NUM_BYTES - 1)
    keep("auto", Filler(), "new")
    assert {store.key for store in stores.list_stores()} == {"used again", "young", "new"}


def test_a_store_beyond_the_limit_is_not_put_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    keep("disk", Filler(), "old")
    for module in (cache, stores):
        monkeypatch.setattr(module, "LIMIT", NUM_BYTES)
    states = keep("auto", Filler(), "new")
    assert states is not None
    assert states.place == "memory"
    assert [store.key for store in stores.list_stores()] == ["old"]


def test_batches_are_padded_with_zeros() -> None:
    states = keep("memory", Filler())
    assert states is not None
    numbers = Filler().numbers()
    batch = states.batch([2, 1], [(0, 0), (1, 0)], "cpu")
    assert batch.shape == (2, 4, WIDTH)
    assert torch.equal(batch[0], numbers[4:8])
    assert torch.equal(batch[1, 0], numbers[3])
    assert not batch[1, 1:].any()
    packed = states.batch([2, 1, 0], [(1, 0), (0, 3), (0, 0)], "cpu")
    assert packed.shape == (2, 4, WIDTH)
    assert torch.equal(packed[1], numbers[4:8])
    assert torch.equal(packed[0], torch.cat([numbers[:3], numbers[3:4]]))


def test_keys_hold_every_fact() -> None:
    facts = {"model": "m", "layer": 3, "tokens": "t"}
    assert store_key(**facts) == store_key(**dict(reversed(facts.items())))
    assert (
        len({store_key(**facts), *(store_key(**{**facts, name: "x"}) for name in facts), store_key(**facts, more=1)})
        == 5
    )
