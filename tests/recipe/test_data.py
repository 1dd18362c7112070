"""What a command line says of text that is learned again."""

from __future__ import annotations

import pytest

from ctxtune.recipe.data import replay_of


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (None, (None, None)),
        ("other.txt", ("other.txt", None)),
        ("other.txt:5%", ("other.txt", 0.05)),
        ("a:b/other.txt:0.25", ("a:b/other.txt", 0.25)),
        ("hub:owner/name", ("hub:owner/name", None)),
        ("a:b", ("a:b", None)),
        (":5%", (":5%", None)),
    ],
)
def test_a_file_and_its_share(said: str | None, found: tuple[str | None, float | None]) -> None:
    assert replay_of(said) == found
