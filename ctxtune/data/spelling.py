"""What tokens are spelled of: those that are spelled alike mean alike more often than not.

A token has the features of fastText (Bojanowski et al. 2017), the runs of 2 to 4 letters in it with its beginning and its end
marked, and those that byte-level vocabularies hide: what it is without its space and its capitals (" the", "The" and "the" are
three tokens that have nothing in common otherwise), whether it has them, and how long it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

RUNS = (2, 3, 4)
_SHARED = 3  # tokens that share a run of letters, at least
_LONGEST = 8  # letters that are counted


@dataclass(frozen=True)
class Spelling:
    """Token t of V has the features features[bounds[t] : bounds[t + 1]], of `count` that there are."""

    features: NDArray[np.int64]
    bounds: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> Spelling:
        """That of tokens, each with its space before it; None is one that is no text. What a token shares with too few
        others is left out."""
        found = [set[str]() if text is None else set(_features(text)) for text in texts]
        shared = Counter(name for names in found for name in names)
        number = {
            name: place
            for place, name in enumerate(
                sorted(name for name, tokens in shared.items() if tokens >= (2 if name[0] == "=" else _SHARED))
            )
        }
        each = [sorted(number[name] for name in names if name in number) for names in found]
        bounds = np.append(0, np.cumsum([len(some) for some in each]))
        flat = [one for some in each for one in some]
        return cls(np.array(flat, np.int64), bounds.astype(np.int64), len(number))


def _features(text: str) -> Iterator[str]:
    """Their names: "=word" is what it is without spaces and capitals, "~run" a run of letters, the others say how it looks."""
    word = text.strip()
    small = word.lower()
    yield "spaced" if text[:1].isspace() else "bare"
    yield "capital" if word[:1].isupper() else "small"
    yield f"of {min(len(word), _LONGEST)}"
    if len(word) > 1 and word.isupper():
        yield "capitals"
    if not word.isalpha():
        yield "no letters alone"
    yield f"={small}"
    marked = f"^{small}$"
    for length in RUNS:
        for first in range(len(marked) - length + 1):
            yield f"~{marked[first : first + length]}"
