"""Regular expressions of a recipe."""

from __future__ import annotations

import pytest

from ctxtune.recipe import pattern
from ctxtune.recipe.pattern import compiled, last_match


@pytest.mark.parametrize(
    ("expression", "text", "expected"),
    [
        (r"[0-9]+", "3 and 4 are 7.", "7"),
        (r"answer is (-?[0-9]+)", "The answer is 5. No, the answer is -6, not 7", "-6"),
        (r"(a)|b", "ab", None),
        ("x", "abc", None),
        ("", "abc", ""),
    ],
)
def test_the_last_match_counts(expression: str, text: str, expected: str | None) -> None:
    assert last_match(compiled(expression), text) == expected


@pytest.mark.parametrize("expression", ["(", "[a", "a{2,1}", "(?P<n>a)(?P=m)"])
def test_what_is_no_pattern(expression: str) -> None:
    with pytest.raises(ValueError, match="is no regular expression"):
        compiled(expression)


def test_a_pattern_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern, "SECONDS", 0.05)
    with pytest.raises(TimeoutError):
        last_match(r"(.*?a){12}x", "a" * 200)
