"""What tokens share."""

from __future__ import annotations

import numpy as np

from ctxtune.data.spelling import Spelling

WORDS = [None, "The", " the", "the", " cathedral", "their", "zq", "", "  ", "中文", "中国", " 中"]


def features(spelling: Spelling, token: int) -> set[int]:
    return set(spelling.features[spelling.bounds[token] : spelling.bounds[token + 1]].tolist())


def common(ours: int, other: int) -> int:
    found = Spelling.of(WORDS)
    return len(features(found, ours) & features(found, other))


def test_a_word_is_the_same_with_a_space_or_a_capital() -> None:
    assert common(2, 3) > common(2, 4)  # " the" is nearer to "the" than to " cathedral"
    assert common(1, 3) > common(1, 6)
    assert common(4, 5) > common(4, 6)  # t h e stands in both
    assert common(9, 10) > common(9, 6)


def test_what_is_no_text_shares_nothing() -> None:
    found = Spelling.of(WORDS)
    assert not features(found, 0)
    assert len(found.bounds) == len(WORDS) + 1


def test_what_too_few_share_is_left_out() -> None:
    """Of two words with nothing in common but how they look: 7 features each, and those of their looks remain."""
    found = Spelling.of(["abcd", "efgh", "ijkl"])
    assert found.count == 3  # bare, small, of 4
    assert [len(features(found, token)) for token in range(3)] == [3, 3, 3]
    assert Spelling.of([]).count == 0


def test_it_is_the_same_every_time() -> None:
    ours, again = Spelling.of(WORDS), Spelling.of(list(WORDS))
    np.testing.assert_array_equal(ours.features, again.features)
    np.testing.assert_array_equal(ours.bounds, again.bounds)
    assert ours.count == again.count
    assert max(ours.features) == ours.count - 1
