"""How deep to train, `layers: auto`: what speaks for last:1, last:2, last:4, ... and which of them is taken.

Three kinds of evidence, from cheap to dear:

    probe      a ridge regression on what enters block l, at the answer slot, to the answers' classes (closed form):
               accuracy a_l in five folds. The first depth with a_l >= max - 1 standard error holds what a linear reader
               can find. It is shown, not decided on: on SST-2 it calls 8 layers of 30 enough, and 16 give 5 points more.
               Head2Toe (Evci et al. 2022) reads depths in this way.
    gradient   share_k = sum over the last k layers of |g_l|^2, over that of all candidates, at the start (AutoFreeze,
               Liu et al. 2021, looks at gradient norms as well). It is shown against cost_k, not decided on:
               large gradients in low layers say that they would move, not that it would help.
    trial      the held-out loss after a short run from kept states at its best rate. The fewest layers come first: they
               find a rate cheaply, and more layers want a lower one, by a rung of the ladder for four times as many. Then
               the most, and fewer only where these lose by more than one standard error (paired, by example). Of cuts that
               cannot be told apart the deepest is taken: at its lower rate it forgets less (a KL of 0.01 with 16 layers of
               SmolLM2 on SST-2, where the last alone moved it by 0.09), and it is the one that has not yet learned most.

    cost_k     L - k  +  passes x 3k      forward once through the frozen blocks, then 3 for forward and backward
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from torch import Tensor

FOLDS = 5
_MOST = 16


def candidates(num_layers: int, least: int = 1) -> list[int]:
    """1, 2, 4, ... layers from the top, at least `least`, up to 16 and to all there are."""
    powers = [2**n for n in range(_MOST.bit_length()) if least <= 2**n <= min(_MOST, num_layers)]
    return powers or [min(num_layers, max(least, 1))]


def cost(k: int, num_layers: int, passes: float) -> float:
    """Block passes a token of a run that trains the last k layers from kept states."""
    return num_layers - k + passes * 3 * k


@dataclass(frozen=True)
class Probe:
    """The accuracy of a linear reader at a depth, and its standard error."""

    accuracy: float
    stderr: float


def probe_depths(answers: Iterable[Tensor], classes: Sequence[Hashable]) -> list[Probe]:
    """A ridge probe at every depth, each answers (n, D), in the dual form: n is smaller than D as a rule.

    Features are standardised, K = X X' / D, and alpha = (K + I)^-1 Y for the rows of the other folds, Y one-hot and
    centred: the penalty is as large as the mean square of a row.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(classes))}
    labels = torch.tensor([names[name] for name in classes])
    wanted = torch.nn.functional.one_hot(labels, len(names)).double()
    fold = torch.arange(len(labels)) % min(FOLDS, len(labels))
    return [_probe(depth.double(), wanted, labels, fold) for depth in answers]


def _probe(x: Tensor, wanted: Tensor, labels: Tensor, fold: Tensor) -> Probe:
    x = (x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-6)
    kernel = x @ x.T / x.shape[1]  # (n, n)
    hits = torch.zeros(len(labels), dtype=torch.float64)
    for number in range(int(fold.max()) + 1):
        out, rest = fold == number, fold != number
        if not rest.any():
            continue
        mean = wanted[rest].mean(0)
        system = kernel[rest][:, rest] + torch.eye(int(rest.sum()), dtype=torch.float64)
        alpha = torch.linalg.solve(system, wanted[rest] - mean)
        said = kernel[out][:, rest] @ alpha + mean
        hits[out] = (said.argmax(1) == labels[out]).double()
    accuracy = hits.mean().item()
    return Probe(accuracy, math.sqrt(accuracy * (1 - accuracy) / len(labels)))


def first_sufficient(probes: Sequence[Probe]) -> int:
    """The first depth whose accuracy is within one standard error of the best."""
    best = max(probes, key=lambda probe: probe.accuracy)
    return next(depth for depth, probe in enumerate(probes) if probe.accuracy >= best.accuracy - best.stderr)


def rungs_below(k: int) -> int:
    """How many rungs below the best rate of the last layer k layers start: 0, 0, 1, 1, 2 for 1 to 16."""
    return (k.bit_length() - 1) // 2


def not_worse(gaps: Mapping[int, tuple[float, float]]) -> int:
    """The deepest of the cuts that were tried whose loss lies within one standard error of the lowest.

    `gaps` are, of each number of layers, how much higher its loss is, and the standard error of that.
    """
    return max(k for k, (gap, stderr) in gaps.items() if gap <= stderr)
