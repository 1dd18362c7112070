"""Phrases of a text, and edits of them as GrIPS makes them."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from ctxtune.data.phrases import edited, phrases


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Is the review good or bad?", ["Is the review good", "or bad?"]),
        (
            "Read the review, and give its tone: good or bad.\n",
            ["Read the review,", "and give its tone:", "good", "or bad."],
        ),
        ("One.  Two;\nthree", ["One.", "Two;", "three"]),
        ("3.5 stars, 10:30", ["3.5 stars,", "10:30"]),
        ("请判断情感，只回答一个词。", ["请判断情感，", "只回答一个词。"]),
        ("orange", ["orange"]),
        (" \n", []),
    ],
)
def test_phrases_end_at_punctuation_and_begin_at_joints(text: str, parts: list[str]) -> None:
    assert phrases(text) == parts


def test_an_edit_moves_phrases_and_makes_none() -> None:
    start = "Read the review, and give its tone: good or bad.\n\n"
    for seed in range(50):
        chance, text, gone = Random(seed), start, ()
        for _ in range(6):
            before = text, gone
            text, gone = edited(text, gone, chance)
            assert Counter(" ".join([text, *gone]).split()) == Counter(start.split())
            assert (text, gone) != before
            assert text.endswith("\n\n")
            assert text.strip()


def test_all_three_edits_are_made() -> None:
    made = set()
    for seed in range(40):
        text, gone = edited("a, b", ("c",), Random(seed))
        made.add((text, gone))
    assert made == {
        ("b", ("c", "a,")),
        ("a,", ("c", "b")),
        ("b a,", ("c",)),
        ("c a, b", ()),
        ("a, c b", ()),
        ("a, b c", ()),
    }


@pytest.mark.parametrize("text", ["", " \n", "One.\n"])
def test_the_last_phrase_stays(text: str) -> None:
    assert edited(text, (), Random(0)) == (text, ())
