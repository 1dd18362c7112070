"""What a model makes of a text, as one vector: the mean over its tokens of the states at about 60 % of the depth.

No second model is needed to tell which texts are alike, and only the lower blocks are run. The first token is left out where
others follow: attention rests on it, so that its state is far larger than all others and says little of the text (Xiao et
al. 2024).

Shapes: N texts, T tokens, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ctxtune.backend.cache import keep_states, store_key
from ctxtune.backend.feed import Feed
from ctxtune.backend.trunk import Trunk
from ctxtune.data.encode import Encoded
from ctxtune.data.prompt import encode_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ctxtune.backend.load import Base

DEPTH = 0.6


def text_features(base: Base, texts: Sequence[str], where: str, mark: str) -> NDArray[np.float32]:
    """One vector a text (N, D), as an earlier run has kept them where there was one.

    `where` is auto, memory, disk or off; `mark` stands for the model's numbers.
    """
    start = max(1, round(DEPTH * len(base.anatomy.block_list(base.model))))
    tokens = [tuple(encode_prompt(base.tokenizer, text)[-base.max_length :]) or (0,) for text in texts]
    with Trunk(base, start) as trunk:
        feed = Feed(trunk, [Encoded(ids, (0,), (0,)) for ids in tokens])

        def fill(data: Tensor, _: Sequence[int]) -> None:
            for i, hidden in feed.entering():
                data[i] = hidden[min(1, len(hidden) - 1) :].float().mean(0)

        key = store_key(model=mark, mean=start, tokens=feed.tokens_hash(), **base.computes())
        kept = keep_states(key, [1] * len(texts), base.width, where, fill) if where != "off" else None
        data = torch.zeros(len(texts), base.width) if kept is None else kept.data
        if kept is None:
            fill(data, ())
    features: NDArray[np.float32] = data.numpy()
    return features
