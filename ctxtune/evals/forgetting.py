"""Forgetting: how far a tuned model has moved on text that has nothing to do with its task.

On a probe of 16 x 256 tokens of ordinary prose, for every token with something before it:

    KL(base || tuned) = sum_v p_base(v) (log p_base(v) - log p_tuned(v)),  mean, nats a token
    loss              = - log p(token),                                    mean, nats a token, before and after

What forgets is governed by this KL more than by the number of trained weights (Shenfeld et al. 2025, "RL's Razor").
The base's final states are kept, not its logits: V numbers a token become D, and the head gives them back exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.func import functional_call
from torch.nn import functional

from ctxtune.backend.cache import keep_states, store_key
from ctxtune.backend.feed import examples_hash
from ctxtune.data.encode import Encoded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from ctxtune.backend.feed import Feed

ROWS, LENGTH = 16, 256
GUARD_ROWS, GUARD_LENGTH = 64, 64  # of a text that is trained on, a row or two a step
_CHUNK = 64  # rows of logits in memory at once: V numbers each, several times over


@dataclass(frozen=True)
class Drift:
    """Nats a token on the probe. kl is 0 where nothing has moved."""

    loss: float
    kl: float
    tokens: int


@dataclass(frozen=True)
class BaseProbe:
    """What the base said of the probe: final states (N, D), and the numbers of its head where the head is trained."""

    hidden: Tensor
    head: Mapping[str, Tensor]


def probe_examples(token_ids: Sequence[int], kind: str, mask_token: int | None, context: int) -> list[Encoded]:
    """Up to 16 rows of 256 tokens (fewer where the model's context is shorter).

    A causal model is scored on every token but the first of a row, a masked one on every seventh, which is hidden; what a
    classifier says of a row has no right answer, but can be compared.
    """
    return _asked(_cut(token_ids, min(LENGTH, context), ROWS), kind, mask_token)


def guard_examples(token_ids: Sequence[int], kind: str, mask_token: int | None, context: int) -> list[Encoded]:
    """Up to 64 rows of 64 tokens of a text that is trained on; short ones, so that few tokens are of many texts."""
    return _asked(_cut(token_ids, min(GUARD_LENGTH, context), GUARD_ROWS), kind, mask_token)


def _cut(token_ids: Sequence[int], length: int, most: int) -> list[tuple[int, ...]]:
    """Rows one after another; a token alone is none."""
    rows = [tuple(token_ids[i : i + length]) for i in range(0, len(token_ids), length)][:most]
    return [row for row in rows if len(row) > 1]


def _asked(rows: Sequence[tuple[int, ...]], kind: str, mask_token: int | None) -> list[Encoded]:
    """What is asked of each row."""
    if kind == "causal":
        return [Encoded(ids=row[:-1], rows=tuple(range(len(row) - 1)), labels=row[1:]) for row in rows]
    if kind == "classifier":
        return [Encoded(ids=row, rows=(0,), labels=(0,)) for row in rows]
    examples = []
    for row in rows:
        hidden = tuple(range(3, len(row), 7)) or (0,)
        ids = tuple(mask_token if i in set(hidden) and mask_token is not None else token for i, token in enumerate(row))
        examples.append(Encoded(ids=ids, rows=hidden, labels=tuple(row[i] for i in hidden)))
    return examples


def read_base(feed: Feed, keep_head: bool = False) -> BaseProbe:
    """What the base says of the probe, before anything moves; `keep_head` for comparing with another model."""
    with torch.no_grad():
        hidden = torch.cat([feed.hidden([i]) for i in range(len(feed.examples))])
    return BaseProbe(hidden, head_numbers(feed, keep_head))


def kept_base(feed: Feed, where: str, mark: str) -> BaseProbe:
    """The same of a base that nothing has moved yet: what an earlier run has kept of it is not read again.

    `where` and `mark` are as of `Feed.keep`.
    """
    trunk = feed.trunk
    base, row = trunk.base, trunk.base.anatomy
    # float32 holds what is kept exactly; what lies between norm and head may make the states wider or narrower.
    if where not in ("auto", "disk") or base.device.dtype is torch.float64 or row.kind == "classifier" or row.outward:
        return read_base(feed)

    def fill(data: Tensor, offsets: Sequence[int]) -> None:
        data.copy_(read_base(feed).hidden)

    asked = examples_hash(feed.examples, asked=True)
    key = store_key(
        model=mark, what="final states", layer=trunk.start, plain=trunk.plain, asked=asked, **base.computes()
    )
    kept = keep_states(key, [len(one.rows) for one in feed.examples], base.width, where, fill)
    if kept is None:
        return read_base(feed)
    device = next(base.model.parameters()).device
    # A copy lies in memory as what is read does: from where a file is mapped products may sum in another order.
    return BaseProbe(kept.data.to(device, base.device.dtype, copy=True), head_numbers(feed))


def head_numbers(feed: Feed, every: bool = False) -> dict[str, Tensor]:
    """The numbers of the head that will move, or all of them, as they are now."""
    head = feed.trunk.head.named_parameters(remove_duplicate=False)
    return {name: param.detach().clone() for name, param in head if every or param.requires_grad}


def unmoved(feed: Feed, base: BaseProbe) -> Drift:
    """The same where nothing has moved yet: what the base has said is what the model says."""
    labels = torch.cat([feed.labels([i]) for i in range(len(feed.examples))])
    loss = 0.0
    with torch.no_grad():
        for first in range(0, len(labels), _CHUNK):
            chunk, label = base.hidden[first : first + _CHUNK], labels[first : first + _CHUNK]
            logits = feed.trunk.logits(chunk).float()
            loss += functional.cross_entropy(logits, label, reduction="sum").item()
    return Drift(loss / len(labels), 0.0, len(labels))


def drift(feed: Feed, base: BaseProbe) -> Drift:
    """Loss on the probe now, and KL from what the base said of it."""
    loss = kl = 0.0
    count = begin = 0
    # Numbers that have not moved are taken where they are: a copy of them, aligned otherwise, sums in another order.
    own = dict(feed.trunk.head.named_parameters(remove_duplicate=False))
    head = {name: value for name, value in base.head.items() if name not in own or not torch.equal(own[name], value)}
    with torch.no_grad():
        for i in range(len(feed.examples)):
            hidden, labels = feed.hidden([i]), feed.labels([i])
            earlier = base.hidden[begin : begin + len(hidden)]
            for first in range(0, len(hidden), _CHUNK):
                chunk, old, label = (rows[first : first + _CHUNK] for rows in (hidden, earlier, labels))
                now = functional.log_softmax(feed.trunk.logits(chunk).float(), dim=-1)
                was = functional.log_softmax(_said(feed.trunk.head, head, old), dim=-1)
                loss += functional.nll_loss(now, label, reduction="sum").item()
                kl += functional.kl_div(now, was, reduction="sum", log_target=True).item()
            begin += len(hidden)
            count += len(hidden)
    return Drift(loss / count, max(kl / count, 0.0), count)


def _said(head: nn.Module, numbers: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    """Logits of a head with other numbers, each under every name: what is one and the same there may be two in the other."""
    logits: Tensor = functional_call(head, dict(numbers), (hidden,), tie_weights=False)
    return logits.float()
