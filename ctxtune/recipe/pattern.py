"""Regular expressions of a recipe, which come from strangers: checked with the recipe, bounded in time when they are used.

`regex` is what the tokenizers of transformers need; other than `re` it can be told to give up.
"""

from __future__ import annotations

SECONDS = 1.0


def compiled(pattern: str) -> str:
    """The pattern, if it is one.

    Raises:
        ValueError: it is not.
    """
    import regex

    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern[:80]!r} is no regular expression: {error}") from error
    return pattern


def last_match(pattern: str, text: str) -> str | None:
    """The last match in a text, or its first group where there is one; None where there is no match.

    Raises:
        TimeoutError: to look for it takes more than a second.
    """
    import regex

    found = list(regex.finditer(pattern, text, timeout=SECONDS))
    if not found:
        return None
    last = found[-1]
    said = last.group(1 if last.re.groups else 0)
    return str(said) if said is not None else None
