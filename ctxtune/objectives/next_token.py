"""The next token, of every token of a row: what a model learns from text alone.

    loss = - sum over tokens of log p(next token | those before it in its segment)            nats

Logits are never there as a whole: of a few rows at a time they are computed, become the loss and the gradients of the states
and of the head, and go (as Cut Cross-Entropy, Wijmans et al. 2024, and Liger, Hsu et al. 2024, do on GPUs).

Shapes: B rows, T tokens, N = B T, D the states' width, V tokens of the vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from ctxtune.data.batch import micro_batches
from ctxtune.data.fill import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.device import Device
    from ctxtune.data.fill import Rows

_LOGITS = 1 << 20  # at once: 4 MB, that stay near the processor


class _Loss(torch.autograd.Function):
    """Summed cross-entropy of a linear head; what it pulls is known when it is."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        grad_states, grad_head = torch.empty_like(states), torch.zeros_like(head)
        total = torch.zeros((), dtype=torch.float64, device=states.device)
        step = max(1, _LOGITS // len(head))
        for first in range(0, len(states), step):
            some, label = states[first : first + step], labels[first : first + step]
            lost, odds = nll(some, head, label)
            total += lost.sum(dtype=torch.float64)
            odds[torch.arange(len(label), device=label.device), label] -= 1
            torch.mm(odds, head, out=grad_states[first : first + step])
            grad_head.addmm_(odds.t(), some)
        ctx.save_for_backward(grad_states, grad_head)
        return total.to(states.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_states, grad_head = ctx.saved_tensors
        return grad_states.mul_(grads[0]), grad_head.mul_(grads[0]), None


def nll(states: Tensor, head: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of each label its negative log-probability (N,), and the probabilities of all (N, V)."""
    logits = states @ head.t()
    right = logits.gather(1, labels[:, None])[:, 0]
    most = logits.amax(1, keepdim=True)
    odds = logits.sub_(most).exp_()
    total = odds.sum(1, keepdim=True)
    return (total.log() + most)[:, 0] - right, odds.div_(total)


class NextToken:
    """Pulls a causal model towards the text of some rows; at most `most_tokens` go through its layers together."""

    def __init__(self, model: nn.Module, anatomy: Anatomy, rows: Rows, device: Device, most_tokens: int) -> None:
        self.rows, self.lengths = rows, rows.lengths
        self._backbone, self._head = model.get_submodule(anatomy.backbone), model.get_submodule(anatomy.head)
        self._device, self._most_tokens, self._row = device, most_tokens, int(self.lengths.max())
        self._compiled: Callable[..., Any] | None = None
        self._inside: Callable[[Callable[[], Any]], Any] = lambda work: work()
        self._shape: torch.Size | None = None

    def compile(self) -> None:
        """Learn through compiled layers from now on, where a part has the shape of the first one; others go the plain way.

        The first part takes as long as the compiling does. Whatever fails there, fails then.
        """
        self._compiled, self._shape = torch.compile(self._backbone, dynamic=False), None

    def inside(self, root: Callable[[Callable[[], Any]], Any]) -> None:
        """Work inside a root from now on, where the numbers are whole (backend/sharding.py)."""
        self._inside = root

    def plainly(self) -> None:
        """Learn through the layers as they are."""
        self._compiled = None

    def tokens(self, batch: Sequence[int]) -> int:
        """Tokens that are predicted."""
        return int(self.lengths[batch].sum())

    def parts(self, batch: Sequence[int], rows: int | None) -> list[list[int]]:
        """The batch in parts that fit into memory."""
        lengths = cast("Sequence[int]", self.lengths)
        return micro_batches(batch, lengths, rows=rows, max_tokens=self._most_tokens)

    def loss(self, part: Sequence[int]) -> Tensor:
        """The summed loss of some rows, nats."""

        def work() -> Any:
            states, labels, _ = self._states(part, learning=True)
            return _Loss.apply(states, self._weight, labels)  # type: ignore[no-untyped-call]

        loss: Tensor = self._inside(work)
        return loss

    def losses(self, batch: Sequence[int]) -> list[float]:
        """The summed loss of each row, nats."""
        found: dict[int, float] = {}
        with torch.no_grad():
            for part in self.parts(batch, None):
                found |= zip(part, self._inside(partial(self._each, part)).tolist(), strict=True)
        return [found[row] for row in batch]

    def _each(self, part: Sequence[int]) -> Tensor:
        """The summed loss of each row of a part (B,), nats."""
        states, labels, row = self._states(part)
        step = max(1, _LOGITS // len(self._weight))
        chunks = [slice(first, first + step) for first in range(0, len(states), step)]
        lost = torch.cat([nll(states[some], self._weight, labels[some])[0] for some in chunks])
        sums = torch.zeros(len(part), dtype=torch.float64, device=lost.device)
        return sums.index_add_(0, row, lost.double())

    def write(self, first: int, count: int, seed: int) -> list[int]:
        """Tokens that the model draws behind one, in its own words; the chance of other things is left alone."""
        generator, ids = torch.Generator().manual_seed(seed), [first]
        with torch.no_grad():
            for _ in range(count):
                given = torch.tensor([ids[-self._row :]], device=self._device.name)
                odds = self._inside(partial(self._next, given)).softmax(0).cpu()
                ids.append(int(torch.multinomial(odds, 1, generator=generator)))
        return ids[1:]

    def _next(self, ids: Tensor) -> Tensor:
        """The logits (V,) of what stands behind a row (1, T)."""
        states = self._backbone(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
        logits: Tensor = states.to(self._weight.dtype) @ self._weight.t()
        return logits.float()

    @property
    def _weight(self) -> Tensor:
        weight: Any = self._head.weight
        return cast("Tensor", weight)

    def _layers(self, ids: Tensor, apart: bool) -> Callable[..., Any]:
        """The layers, as they are quickest for such tokens: every other shape would be compiled anew."""
        if self._compiled is None or apart:
            return self._backbone
        self._shape = self._shape or ids.shape
        return self._compiled if ids.shape == self._shape else self._backbone

    def _states(self, part: Sequence[int], learning: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """What the head reads (N, D), what it should say (N,), and the row of each (N,)."""
        batch, device = self.rows.batch(part), self._device
        ids, labels = (torch.from_numpy(one).to(device.name) for one in (batch.ids, batch.labels))
        apart = {"position_ids": torch.from_numpy(batch.positions).to(device.name)} if batch.apart else {}
        layers = self._layers(ids, batch.apart) if learning else self._backbone
        with torch.autocast(device.name, device.dtype, enabled=device.narrow):
            states = layers(input_ids=ids, use_cache=False, **apart).last_hidden_state
        states, labels = states.flatten(0, 1).to(self._weight.dtype), labels.flatten()
        row = torch.arange(len(part), device=device.name).repeat_interleave(batch.ids.shape[1])
        there = labels != IGNORED
        return (states, labels, row) if bool(there.all()) else (states[there], labels[there], row[there])
