"""How much two texts share, rare words before common ones: BM25 (Robertson et al. 1994; Lucene's form of it, by bm25s).

    score(q, d) = sum over words w of q of  log(1 + (N - n_w + 0.5) / (n_w + 0.5))  f / (f + k1 (1 - b + b |d| / mean |d|))

N texts, of which n_w hold w; d holds it f times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

K1, B = 1.2, 0.75


class Bm25:
    """Texts, each a list of its words, that can be asked which of them a list of words is like."""

    def __init__(self, texts: Sequence[list[str]]) -> None:
        from bm25s import BM25

        self.size = len(texts)
        self.index = BM25(k1=K1, b=B, method="lucene") if any(texts) else None
        if self.index is not None:
            self.index.index(texts, show_progress=False)

    def scores(self, words: list[str]) -> NDArray[np.float32]:
        """Of every text (N,); words that stand in none of them count nothing."""
        if self.index is None:
            return np.zeros(self.size, dtype=np.float32)
        scores: NDArray[np.float32] = self.index.get_scores_from_ids(self.index.get_tokens_ids(words))
        return scores
