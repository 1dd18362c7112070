"""Rows of a corpus: every token is predicted once, in the context of its own document, and little room is left over."""

from __future__ import annotations

import tracemalloc
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctxtune.data import fill as module
from ctxtune.data.corpus import Counts, Part, read_corpus, write_corpus
from ctxtune.data.documents import Piece
from ctxtune.data.fill import IGNORED, fill
from ctxtune.data.shuffle import Order, Shuffled
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

END = 0


def written(folder: Path, documents: Sequence[Sequence[int]], cut: int | None = None, vocabulary: int = 1000) -> Part:
    """A corpus whose texts spell their tokens; documents longer than `cut` come in pieces."""
    pieces = []
    for ids in documents:
        step = cut or max(1, len(ids))
        for first in range(0, max(1, len(ids)), step):
            pieces.append(Piece(" ".join(map(str, ids[first : first + step])) + " ", first == 0))
    pieces.append(Piece("7 ", True, held=True))
    folder.mkdir(parents=True, exist_ok=True)
    write_corpus(
        folder, pieces, lambda texts: [[int(one) for one in t.split()] for t in texts], END, vocabulary, lambda n: None
    )
    return read_corpus(folder)[0]


def documents(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    random = Random(seed)
    return [[random.randint(1, 999) for _ in range(random.randint(1, longest))] for _ in range(count)]


def test_a_corpus_is_a_stream_with_an_end_before_each_document_and_behind_the_last(tmp_path: Path) -> None:
    part = written(tmp_path, [[1, 2], [3], [4, 5, 6]])
    assert part.tokens.tolist() == [END, 1, 2, END, 3, END, 4, 5, 6, END]
    assert part.starts.tolist() == [0, 3, 5]
    assert (part.counts.documents, part.counts.tokens) == (3, 9)
    assert part.tokens.dtype == np.uint16


def test_pieces_of_a_document_are_put_together_again(tmp_path: Path) -> None:
    some = documents(20, 50)
    one, other = written(tmp_path / "a", some), written(tmp_path / "b", some, cut=7)
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.starts.tolist() == other.starts.tolist()


def test_a_large_vocabulary_has_wider_tokens(tmp_path: Path) -> None:
    part = written(tmp_path, [[70_000, 3]], vocabulary=100_000)
    assert part.tokens.tolist() == [END, 70_000, 3, END]


@pytest.mark.parametrize("longest", [3, 20, 200])
@pytest.mark.parametrize("most", [8, 16, 64])
def test_every_token_is_predicted_once_from_its_own_document(longest: int, most: int, tmp_path: Path) -> None:
    some = documents(60, longest, seed=most)
    part = written(tmp_path, some)
    rows = fill(part, most)
    seen: list[tuple[int, int, int]] = []  # a token, its label, its position
    for row in range(len(rows)):
        batch = rows.batch([row])
        assert batch.ids.shape[1] <= most
        for token, label, position in zip(batch.ids[0], batch.labels[0], batch.positions[0], strict=True):
            if label != IGNORED:
                seen.append((int(token), int(label), int(position)))
    expected = []
    for ids in some:
        fed, labels = [END, *ids], [*ids, END]
        expected += [(fed[n], labels[n], n % most) for n in range(len(fed))]
    assert sorted(seen) == sorted(expected)
    assert rows.lengths.sum() == part.counts.tokens


def test_a_row_starts_with_a_document_where_it_can(tmp_path: Path) -> None:
    part = written(tmp_path, documents(80, 40))
    rows = fill(part, 16)
    starts = set(part.starts.tolist())
    for row in range(len(rows)):
        begins = [int(first) in starts for first in rows.first[rows.bounds[row] : rows.bounds[row + 1]]]
        assert begins[0] or not any(begins)


def test_best_fit_leaves_little_room(tmp_path: Path) -> None:
    rows = fill(written(tmp_path, documents(2000, 300)), 64)
    assert rows.lengths.sum() / (64 * len(rows)) > 0.98


def test_of_many_documents_some_at_a_time_share_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = written(tmp_path, documents(500, 60))
    whole = fill(part, 16)
    monkeypatch.setattr(module, "_TOGETHER", 64)
    rows = fill(part, 16)
    spans = sorted(zip(rows.first.tolist(), rows.length.tolist(), strict=True))
    assert spans == sorted(zip(whole.first.tolist(), whole.length.tolist(), strict=True))
    assert rows.lengths.max() == 16
    assert rows.bounds[0] == 0
    assert (np.diff(rows.bounds) > 0).all()
    assert len(whole) <= len(rows) < 1.05 * len(whole)


def test_rows_take_twelve_bytes_each_and_little_more_while_they_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOGETHER", 1 << 12)
    sizes = np.random.default_rng(0).integers(1, 120, 60_000)
    sizes[0] = 4_000_000  # one of them fills many rows alone
    starts = np.cumsum(sizes) - sizes
    part = Part(np.zeros(1, np.uint16), starts, Counts(len(sizes), int(sizes.sum())))
    tracemalloc.start()
    try:
        rows = fill(part, 16)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 8.5 * len(rows.first) + 4.5 * len(rows)
    assert most < kept + 4 * len(rows) + 2_000_000


def test_a_batch_says_whether_rows_hold_several_segments(tmp_path: Path) -> None:
    rows = fill(written(tmp_path, [[1] * 7, [2] * 3, [3] * 2]), 8)
    assert [rows.batch([row]).apart for row in range(len(rows))] == [False, True]
    both = rows.batch([0, 1])
    assert both.apart
    assert both.positions.tolist() == [[*range(8)], [0, 1, 2, 3, 0, 1, 2, 0]]
    assert both.labels[1, 7] == IGNORED


def test_a_broken_corpus_is_an_error(tmp_path: Path) -> None:
    written(tmp_path, [[1, 2]])
    with (tmp_path / "train.tokens").open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(DataError, match=r"not as long as corpus\.json says"):
        read_corpus(tmp_path)
    (tmp_path / "corpus.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        read_corpus(tmp_path)


def test_an_epoch_is_every_row_once_in_an_order_of_its_own() -> None:
    order = Order(103, 8, seed=3)
    first, second = list(order.epoch(0)), list(order.epoch(1))
    assert [len(batch) for batch in first] == [8] * 12 + [7]
    assert all(sorted(row for batch in one for row in batch) == list(range(103)) for one in (first, second))
    assert first != second
    assert list(Shuffled(103, 8, 3, 1)) == second
    assert list(Shuffled(103, 8, 4, 1)) != second
    assert Shuffled(10, 4, 0, 0)[1:] == [Shuffled(10, 4, 0, 0)[1], Shuffled(10, 4, 0, 0)[2]]


def test_the_order_is_the_same_in_years_to_come() -> None:
    """A run goes on with another numpy as well: these were drawn with 2.3."""
    assert list(Shuffled(8, 3, 7, 2)) == [[6, 4, 0], [5, 7, 1], [3, 2]]
