"""Documents that a corpus holds more than once, to the letter or nearly.

Both harm what is learned from it (Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better").

Of each document its hash is kept, 8 bytes. Where near ones are sought, so is a signature: of KEYS hash functions the least
value over all runs of GRAM bytes (MinHash, Broder 1997). The share of equal values is that of the runs which two documents have
in common, with a standard error of 1 / (2 sqrt(KEYS)) at most. Only documents that agree in all values of one of BANDS bands
are compared: those that share 0.8 of their runs are missed in 1 of 5,000 cases.

White space counts as one space, capitals as small letters, in signatures and not in hashes.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRAM, KEYS, BANDS = 24, 64, 16
ALIKE = 0.8
_PRIME = np.uint64(0x100000001B3)
_MOST = 1 << 16  # runs of a piece that are looked at; of more, those with the least hashes
_NOTHING = np.iinfo(np.uint64).max


class Seen:
    """Every document of a corpus, as it comes by."""

    def __init__(self, near: bool) -> None:
        self._near, self._hashes, self._signatures = near, array("Q"), array("Q")
        self._hash = hashlib.blake2b(digest_size=8)
        self._signature: NDArray[np.uint64] | None = None

    def text(self, text: str, begins: bool) -> None:
        """Some text, with which a document begins or goes on."""
        if begins:
            self._close()
        if self._signature is None:
            self._signature = np.full(KEYS, _NOTHING)
        self._hash.update(text.encode())
        if self._near:
            np.minimum(self._signature, signature(text), out=self._signature)

    def _close(self) -> None:
        if self._signature is not None:
            self._hashes.append(int.from_bytes(self._hash.digest(), "little"))
            if self._near:
                self._signatures.extend(self._signature.tolist())
        self._hash, self._signature = hashlib.blake2b(digest_size=8), None

    def again(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Of each document whether it is the same as an earlier one, and whether it is only nearly that."""
        self._close()
        same = repeated(np.frombuffer(self._hashes, np.uint64))
        if not self._near:
            return same, np.zeros_like(same)
        return same, near_earlier(np.frombuffer(self._signatures, np.uint64).reshape(-1, KEYS), ~same)


def repeated(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Of each hash whether it stands there before."""
    order = np.argsort(hashes, kind="stable")
    along = hashes[order]
    again = np.zeros(len(hashes), np.bool_)
    again[order[1:][along[1:] == along[:-1]]] = True
    return again


def signature(text: str) -> NDArray[np.uint64]:
    """The least value of each hash function over all runs of GRAM bytes (KEYS,)."""
    plain = np.frombuffer(" ".join(text.lower().split()).encode(), np.uint8).astype(np.uint64)
    runs = max(1, len(plain) - GRAM + 1)
    hashes = np.zeros(runs, np.uint64)
    for place in range(min(GRAM, len(plain))):
        hashes = hashes * _PRIME + plain[place : place + runs]
    hashes = _mixed(hashes)
    if runs > _MOST:
        hashes = np.partition(hashes, _MOST)[:_MOST]
    return np.array([_mixed(hashes ^ key).min() for key in _KEYS])


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of each depends on all of its bits (splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed


_KEYS = _mixed(np.arange(1, KEYS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def near_earlier(signatures: NDArray[np.uint64], asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each document that is `asked` for, whether an earlier one that is kept is nearly the same."""
    near = np.zeros(len(signatures), np.bool_)
    numbers = np.flatnonzero(asked)
    for band in range(BANDS):
        width = KEYS // BANDS
        values = signatures[numbers, band * width : (band + 1) * width]
        _, group = np.unique(values, axis=0, return_inverse=True)
        order = np.argsort(group.reshape(-1), kind="stable")
        starts = np.flatnonzero(np.diff(group.reshape(-1)[order], prepend=-1))
        for members in np.split(numbers[order], starts[1:]):
            _compare(members, signatures, near)
    return near


def _compare(members: NDArray[np.int64], signatures: NDArray[np.uint64], near: NDArray[np.bool_]) -> None:
    """Each of some documents, in order, with the first of them that is like it."""
    kept: list[int] = []
    for number in members.tolist() if len(members) > 1 else ():
        if near[number]:
            continue
        shares = (signatures[kept] == signatures[number]).mean(axis=1) if kept else np.zeros(0)
        if (shares >= ALIKE).any():
            near[number] = True
        else:
            kept.append(number)
