"""From logits to a token: the likeliest, or a draw from what transformers' own filters leave.

    z = logits, those of tokens seen before weakened by the penalty;    p = softmax(z / temperature), filtered;
    the token is the first whose cumulative p exceeds u * sum(p),       u uniform in [0, 1) from the text's own generator

Every text draws from a generator of its own, whose seed is a hash of the run's seed, the prompt and how often the prompt
came before: what a prompt gets does not depend on its neighbours in a batch, nor on the device.

Shapes: B texts, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.recipe.written import Generation


REMEMBERED = 16_384  # prompts, about 3 MiB
COLD = 1e-5  # at temperatures below, the likeliest token has all of the probability that float32 can tell


class Seeds:
    """The seed of each prompt's generator: seeds(prompt) -> a whole number below 2**63.

    A stream has no end, so that a prompt is forgotten when `REMEMBERED` others have come since; it then gets what it first got.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._seen: OrderedDict[bytes, int] = OrderedDict()

    def __call__(self, prompt: Sequence[int]) -> int:
        name = hashlib.sha256(f"{self._seed} {' '.join(map(str, prompt))}".encode()).digest()[:16]
        turn = self._seen.pop(name, 0)
        self._seen[name] = turn + 1
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return int.from_bytes(hashlib.sha256(name + str(turn).encode()).digest()[:8], "little") >> 1


def filters(settings: Generation) -> LogitsProcessorList:
    """transformers' processors of a drawn token, in the order in which its `generate` applies them."""
    chosen = LogitsProcessorList()
    if settings.temperature != 1:
        chosen.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        chosen.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        chosen.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p:
        chosen.append(MinPLogitsWarper(settings.min_p))
    return chosen


class Sampler:
    """Chooses the next token of each text."""

    def __init__(self, settings: Generation) -> None:
        penalty = settings.repetition_penalty
        self._penalty = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1 else None
        self._filters = filters(settings) if settings.temperature > COLD else None

    @torch.no_grad()
    def __call__(
        self, logits: Tensor, histories: Sequence[Sequence[int]], generators: Sequence[torch.Generator]
    ) -> list[int]:
        """One token a text: logits (B, V), all tokens of each text so far, and its generator."""
        if bool(logits.isnan().any()):
            raise ModelError("the model's output is not a number", "the adapter or the model is broken")
        if self._penalty is not None:
            logits = self._penalty(seen(histories, logits.device), logits)
        if self._filters is None:
            likeliest: list[int] = logits.argmax(-1).tolist()
            return likeliest
        # The largest becomes 0, so that no temperature overflows.
        anchored = logits - logits.amax(-1, keepdim=True)
        return draw(self._filters(None, anchored).softmax(-1), generators)


def seen(histories: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """The tokens of each text (B, T), virtual ones left out; short ones repeat their first, which adds nothing to the set."""
    real = [[token for token in text if token >= 0] for text in histories]
    longest = max(map(len, real))
    return torch.tensor([[*text, *[text[0]] * (longest - len(text))] for text in real], device=device)


def draw(probabilities: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
    """One index a row of probabilities (B, V), by the inverse of the cumulative distribution, in float64."""
    cumulative = probabilities.double().cumsum(-1)
    uniform = torch.cat([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])
    total = cumulative[:, -1:]
    # u < 1, but its product with the sum may round up to the sum, behind which no token stands.
    place = torch.minimum(uniform.to(total.device)[:, None] * total, total.nextafter(torch.zeros_like(total)))
    chosen: list[int] = torch.searchsorted(cumulative, place, right=True)[:, 0].tolist()
    return chosen
