"""Documents that stand in a corpus twice are found, near ones by signatures that tell how near they are."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from ctxtune.data.duplicates import GRAM, KEYS, Seen, near_earlier, repeated, signature

WORDS = [
    f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe", "ra", "so", "ti") for b in ("bar", "den", "fis", "gol", "hut")
]


def prose(seed: int, words: int = 300) -> list[str]:
    random = Random(seed)
    return [random.choice(WORDS) for _ in range(words)]


def look(documents: list[list[str]], near: bool) -> tuple[list[bool], list[bool]]:
    seen = Seen(near)
    for pieces in documents:
        for number, piece in enumerate(pieces):
            seen.text(piece, number == 0)
    return tuple(found.tolist() for found in seen.again())  # type: ignore[return-value]


def runs(text: str) -> set[bytes]:
    plain = " ".join(text.lower().split()).encode()
    return {plain[i : i + GRAM] for i in range(max(1, len(plain) - GRAM + 1))}


def test_what_is_the_same_to_the_letter() -> None:
    same, near = look([["a b"], ["c"], ["a b"], ["a B"], ["a ", "b"], ["c"]], near=False)
    assert same == [False, False, True, False, True, True]
    assert near == [False] * 6


def test_nothing_at_all() -> None:
    assert look([], near=True) == ([], [])
    assert repeated(np.zeros(0, np.uint64)).tolist() == []


@pytest.mark.parametrize("changed", [0, 3, 10, 40, 100])
def test_signatures_tell_the_share_of_common_runs(changed: int) -> None:
    """Within three standard errors of what two texts have in common, counted by hand; over some pairs."""
    gaps = []
    for seed in range(8):
        one = prose(seed)
        other, random = list(one), Random(seed)
        for place in random.sample(range(len(one)), changed):
            other[place] = "changed"
        a, b = " ".join(one), " ".join(other)
        share = len(runs(a) & runs(b)) / len(runs(a) | runs(b))
        gaps.append(float((signature(a) == signature(b)).mean()) - share)
    assert abs(np.mean(gaps)) < 3 * 0.5 / (8 * KEYS) ** 0.5


def test_near_ones_are_found_and_others_are_not() -> None:
    texts = [prose(seed) for seed in range(30)]
    almost = [*texts[4][:150], "other", *texts[4][151:]]
    half = [*texts[5][:150], *prose(99, 150)]
    documents = [[" ".join(words)] for words in [*texts, almost, half, texts[6]]]
    same, near = look(documents, near=True)
    assert same == [False] * 32 + [True]
    assert near == [False] * 30 + [True, False, False]


def test_case_and_white_space_are_near() -> None:
    text = " ".join(prose(1))
    assert look([[text], [text.title().replace(" ", "\n")]], near=True) == ([False, False], [False, True])


def test_a_document_in_pieces_is_one() -> None:
    text = prose(1, 600)
    pieces = [" ".join(text[:300]) + " ", " ".join(text[300:])]
    same, near = look([["".join(pieces)], pieces, [pieces[0]]], near=True)
    assert same == [False, True, False]
    assert near == [False, False, False]


def test_of_three_alike_the_first_is_kept() -> None:
    one = signature(" ".join(prose(1)))
    signatures = np.stack([one, one, one, signature(" ".join(prose(2)))])
    assert near_earlier(signatures, np.ones(4, np.bool_)).tolist() == [False, True, True, False]
    assert near_earlier(signatures, np.array([False, True, True, True])).tolist() == [False, False, True, False]


def test_short_texts_have_signatures_too() -> None:
    assert look([["ab"], ["ab c"], ["AB"]], near=True) == ([False] * 3, [False, False, True])
