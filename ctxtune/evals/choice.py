"""Choice scoring by lm-evaluation-harness's rules, each distinct input run once.

For a row with context c and choices a_1 .. a_k:  ll_i = sum over the tokens of a_i of log p(token | what stands before).
    acc        argmax ll_i
    acc_norm   argmax ll_i / characters of a_i           (the delimiter is not counted)
    acc_bytes  argmax ll_i / UTF-8 bytes of a_i
Ties go to the first. Standard error: sample deviation (n - 1) / sqrt(n). Source: lm-evaluation-harness 0.4,
`ConfigurableTask.process_results`. Choices of one token share their input: the row is run once and read k times. Longer ones
branch from it.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctxtune.backend.cache import keep_states, store_key
from ctxtune.backend.feed import Feed, difference, examples_hash, is_exact, plain_hidden
from ctxtune.backend.ranks import ALONE, now_sharing, sharing
from ctxtune.data.branch import grow, shared
from ctxtune.data.encode import Encoded
from ctxtune.evals.calibrate import log_shares

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from ctxtune.backend.prefix import Prefix
    from ctxtune.backend.trunk import Trunk


class Requests:
    """Many (context, continuation) pairs, in groups of those that may share what they begin with, a row's choices each.

    `feed` holds what the model has to read: each input once, and a group as one tree of tokens (branch.py) where this
    model, asked for one, says the same of its branches as of the requests alone. All of them go on from `prefix`, if there
    is one: `common_prefix` says from which they can. One that is learned is made anew by `learned`; `suffix` as of `Feed`.
    """

    def __init__(
        self, trunk: Trunk, groups: Sequence[Sequence[Encoded]], prefix: Prefix | None = None,
        learned: Callable[[], Prefix] | None = None, suffix: int = 0,
    ) -> None:  # fmt: skip
        self.requests = [request for group in groups for request in group]
        many = any(len({one.ids for one in group}) > 1 for group in groups)
        inputs: dict[Encoded, int] = {}
        self.place: list[int] = []  # request -> input
        self.rows: list[list[int]] = []  # request -> which of the input's answer rows it asks for
        branches = prefix is not None or (many and _can_branch(trunk, groups))
        for group in groups if branches else ([request] for request in self.requests):
            tree, rows = grow([behind(prefix, request) for request in group])
            self.rows += rows
            self.place += [inputs.setdefault(tree, len(inputs))] * len(group)
        self.feed = Feed(trunk, list(inputs), prefix=prefix, learned=learned, suffix=suffix)

    def loglikelihoods(self) -> list[tuple[float, bool]]:
        """For each request the sum of its tokens' log-probabilities, in nats, and whether greedy decoding gives it."""
        return [(float(nats.sum()), bool(likeliest.all())) for nats, likeliest in self.token_scores()]

    def token_scores(self) -> list[tuple[Tensor, Tensor]]:
        """For each request, of each of its tokens: the log-probability in nats, and whether it is the likeliest token.

        Shared out to all processes where that is on (backend/ranks.py).
        """
        asking: dict[int, list[int]] = {}
        for number, place in enumerate(self.place):
            asking.setdefault(place, []).append(number)
        sizes = [len(request.labels) for request in self.requests]
        first = [0, *accumulate(sizes)]
        nats = torch.zeros(first[-1], dtype=torch.float64)
        likeliest = torch.zeros(first[-1], dtype=torch.bool)
        ranks = now_sharing()
        order = sorted(range(len(self.feed.examples)), key=lambda i: (-self.feed.lengths[i], i))
        with torch.no_grad():
            for part in ranks.share(self.feed.parts(order)):
                row, label, slot = self._asked(part, asking, first)
                for logits, rows in self.feed.logits_in_chunks(part):
                    here = (row >= rows.start) & (row < rows.stop)
                    at, token = row[here] - rows.start, label[here].to(logits.device)
                    nats[slot[here]] = (logits[at, token] - logits.logsumexp(-1)[at]).double().cpu()
                    likeliest[slot[here]] = (logits.argmax(-1)[at] == token).cpu()
        return _apart(ranks.total(nats), ranks.total(likeliest.to(torch.uint8)).bool(), sizes)

    def kept_scores(self, where: str, mark: str) -> list[tuple[Tensor, Tensor]]:
        """The same, of a base that nothing has moved: what an earlier run has kept of it on the disk is not asked again."""
        base = self.feed.trunk.base
        # float32 holds what is kept exactly; the head of a classifier is not the base's own.
        if where not in ("auto", "disk") or base.device.dtype is torch.float64 or base.anatomy.kind == "classifier":
            return self.token_scores()
        sizes = [len(request.labels) for request in self.requests]

        def fill(data: Tensor, offsets: Sequence[int]) -> None:
            with sharing(ALONE):  # another process may find it on the disk
                said = self.token_scores()
            data[:, 0] = torch.cat([nats for nats, _ in said])
            data[:, 1] = torch.cat([likeliest for _, likeliest in said])

        key = store_key(model=mark, what="scores", asked=examples_hash(self.requests, asked=True), **base.computes())
        kept = keep_states(key, sizes, 2, where, fill)
        if kept is None:
            return self.token_scores()
        return _apart(kept.data[:, 0].double(), kept.data[:, 1].bool(), sizes)

    def _asked(
        self, part: Sequence[int], asking: Mapping[int, list[int]], first: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Every (answer row of the part, token, its place among the tokens of all requests) that is asked for, as columns."""
        table: list[tuple[int, int, int]] = []
        begin = 0
        for place in part:
            for number in asking[place]:
                asked = enumerate(zip(self.rows[number], self.requests[number].labels, strict=True))
                table += [(begin + at, label, first[number] + j) for j, (at, label) in asked]
            begin += len(self.feed.examples[place].rows)
        rows, labels, slots = torch.tensor(table).unbind(1)
        return rows, labels, slots


def _apart(nats: Tensor, likeliest: Tensor, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """What was asked of all tokens, for each request by itself."""
    return list(zip(torch.split(nats, sizes), torch.split(likeliest, sizes), strict=True))


def common_prefix(groups: Sequence[Sequence[Encoded]]) -> tuple[int, ...]:
    """The tokens that all requests begin with and nobody asks what follows them: each keeps at least a token to be read."""
    every = [request for group in groups for request in group]
    return shared([one.ids for one in every])[: min(one.rows[0] for one in every)]


def behind(prefix: Prefix | None, request: Encoded) -> Encoded:
    """What is left of a request behind the tokens that were read before.

    Raises:
        ValueError: it begins otherwise, or asks for what they say.
    """
    if prefix is None:
        return request
    read = len(prefix.tokens)
    if request.ids[:read] != prefix.tokens or request.rows[0] < read:
        raise ValueError("the request does not go on from this prefix")
    parents = tuple(parent - read for parent in request.parents[read:])
    return Encoded(request.ids[read:], tuple(row - read for row in request.rows), request.labels, parents)


def _can_branch(trunk: Trunk, groups: Sequence[Sequence[Encoded]]) -> bool:
    """Whether the largest group says the same as a tree as it does request by request, and some are larger than one."""
    if trunk.base.anatomy.kind != "causal" or not trunk.narrow:
        return False
    longest = max(groups, key=lambda group: max(len(one.ids) for one in group) * (len(group) > 1))
    tree, rows = grow(longest)
    with torch.no_grad():
        branches = Feed(trunk, [tree]).hidden([0])[[row for some in rows for row in some]]
        alone = plain_hidden(Feed(trunk, longest), range(len(longest)))
    return is_exact(difference(branches, alone), trunk.base.device.dtype)


DIVISORS: dict[str, Callable[[str], int]] = {
    "acc": lambda text: 1,
    "acc_norm": len,
    "acc_bytes": lambda text: len(text.encode("utf-8")),
}


def choice_scores(lls: Sequence[float], gold: int, choices: Sequence[str], read: bool = True) -> dict[str, float]:
    """Of one row: a hit or a miss by each of the rules, and `loss`: -ll of the right choice, in nats.

    A classifier does not `read` its choices: their lengths mean nothing then.
    """
    scores = {
        name: float(argmax([ll / divisor(text) for ll, text in zip(lls, choices, strict=True)]) == gold)
        for name, divisor in DIVISORS.items()
        if read or name == "acc"
    }
    return {**scores, "loss": -lls[gold]}


def divergence(told: Sequence[float], lls: Sequence[float]) -> float:
    """KL(teacher || model) over the choices of one row, in nats; `told` are the teacher's log-probabilities of them."""
    own = log_shares(np.asarray(lls))
    return float((np.exp(told) * (np.asarray(told) - own)).sum())


def argmax(values: Sequence[float]) -> int:
    """The first of the largest."""
    return max(range(len(values)), key=lambda i: values[i])
