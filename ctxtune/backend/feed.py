"""Examples in, logits of their answer rows out: from kept states where the part below the cut is frozen.

Shapes: B batch, T tokens, D width, N answer rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctxtune.backend.cache import States, keep_states, store_key
from ctxtune.backend.linear import onednn_is_faster
from ctxtune.data.batch import micro_batches, padded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ctxtune.backend.trunk import Trunk
    from ctxtune.data.encode import Encoded

# Tokens of one forward pass: large enough for the matrix products, small enough for memory.
_TOKENS = 2048
# Where every token is an answer row, the logits are what fills the memory: rows x vocabulary.
_ROWS = 512
# Rows kept states are compared on: the logits of a real model in float32 have a floor of 4e-5.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Scored:
    """What the model says at the answer rows: logits (N, V), the tokens that stood there (N,), whose they are (N,)."""

    logits: Tensor
    labels: Tensor
    owner: Tensor


class Feed:
    """A list of examples that can be run through a trunk, whole or in parts."""

    def __init__(self, trunk: Trunk, examples: Sequence[Encoded]) -> None:
        self.trunk = trunk
        self.examples = examples
        self.lengths = [len(example.ids) for example in examples]
        self.states: States | None = None
        self.device = str(next(trunk.base.model.parameters()).device)
        pad = getattr(trunk.base.tokenizer, "pad_token_id", None)
        self.pad = int(pad) if pad is not None else 0

    def keep(self, where: str, fingerprint: str) -> States | None:
        """Run everything below the cut once and keep what it said.

        None where nothing lies below the cut, `where` is `off`, or neither disk nor memory has room.
        """
        trunk = self.trunk
        if trunk.start == 0 or where == "off":
            return None
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(np.asarray([len(example.ids), *example.ids], dtype=np.int64).tobytes())
        key = store_key(
            model=fingerprint,
            layer=trunk.start,
            tokens=digest.hexdigest(),
            dtype="float32",
            device=self.device.split(":")[0],
            kernel="onednn" if onednn_is_faster() and self.device == "cpu" else "torch",
            torch=torch.__version__,
        )
        width = trunk.base.width
        self.states = keep_states(key, self.lengths, width, where, self._fill)
        return self.states

    def _fill(self, data: Tensor, offsets: Sequence[int]) -> None:
        order = sorted(range(len(self.examples)), key=lambda i: (-self.lengths[i], i))
        for part in micro_batches(order, self.lengths, rows=None, max_tokens=_TOKENS):
            ids, mask, *_ = self._tensors(part)
            hidden = self.trunk.enter(ids, mask).cpu()
            for b, i in enumerate(part):
                data[offsets[i] : offsets[i + 1]] = hidden[b, : self.lengths[i]]

    def parts(self, indices: Sequence[int], rows: int | None = None) -> list[list[int]]:
        """Cut a batch into what one forward pass takes, or into parts of `rows` examples."""
        answer_rows = sum(len(self.examples[i].rows) for i in indices)
        tokens = sum(self.lengths[i] for i in indices)
        most = max(1, _TOKENS if answer_rows * _TOKENS <= _ROWS * tokens else _ROWS * tokens // answer_rows)
        return micro_batches(indices, self.lengths, rows=rows, max_tokens=most)

    def score(self, part: Sequence[int]) -> Scored:
        """One forward pass over a few examples."""
        hidden, labels, owner = self.hidden(part)
        return Scored(self.trunk.logits(hidden), labels, owner)

    def hidden(self, part: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The final states of the answer rows (N, D), before the head; their labels (N,) and their examples (N,)."""
        ids, mask, b, t, labels = self._tensors(part)
        states = self.states.batch(part, self.device) if self.states is not None else None
        owner = torch.as_tensor(part, device=self.device)[b]
        return self.trunk.rows(ids, mask, b, t, states), labels, owner

    def _tensors(self, part: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        whole = padded([self.examples[i] for i in part], self.pad)
        arrays = (whole.ids, whole.mask, whole.row, whole.position, whole.label)
        ids, mask, b, t, labels = (torch.from_numpy(array).to(self.device) for array in arrays)
        # Padded on the right, no token of a causal model sees a pad: without a mask attention takes its fastest path.
        return ids, None if self.trunk.causal else mask, b, t, labels


def check_kept(feed: Feed) -> float:
    """The largest difference between logits from kept states and from the whole model's own plain forward.

    Looked at are the longest example, the shortest and two from the middle, together in one padded batch. Scale-free:
    the difference is divided by the largest logit.
    """
    order = sorted(range(len(feed.examples)), key=lambda i: feed.lengths[i])
    part = sorted({order[0], order[len(order) // 3], order[2 * len(order) // 3], order[-1]})
    with torch.no_grad():
        kept = feed.score(part).logits
    return float((kept - plain_logits(feed, part)).abs().max() / kept.abs().max().clamp(min=1e-6))


def plain_logits(feed: Feed, part: Sequence[int]) -> Tensor:
    """The answer rows' logits by the model's own forward, nothing left out. The trunk is closed meanwhile."""
    whole = padded([feed.examples[i] for i in part], feed.pad)
    arrays = (whole.ids, whole.mask, whole.row, whole.position)
    ids, mask, b, t = (torch.from_numpy(array).to(feed.device) for array in arrays)
    with feed.trunk.closed(), torch.no_grad():
        logits: Tensor = feed.trunk.base.model(input_ids=ids, attention_mask=mask).logits
    return logits[b, t]


def is_exact(difference: float) -> bool:
    """Whether kept states may be used: splitting sums differently moves float32 logits by less than this."""
    return difference <= _TOLERANCE
