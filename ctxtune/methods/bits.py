"""Bits: each weight of the chosen linear layers stays as it is or is 0; no weight is trained, one bit of each is learned.

How bits follow from scores, and what their gradient is, stands in backend/binary.py (Mallya et al. 2018, "Piggyback"; Zhao et
al. 2020, of language models). A score begins above the threshold, so that the base is what a run starts from, and goes by

    rate  m / sqrt(mean over all scores of v)

m and v AdamW's moments of its gradient. By v of its own, which is Adam, every score goes as far as any other, whatever the loss
asks for: in a short run none gets to the threshold, or a third of all weights at once, and what the model knew is gone.

Weight decay draws scores to where they began. A run holds 20 bytes a weight beside the model: the weight itself, its score,
the score's gradient and both moments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ctxtune.adapter.bits import BITS, encode, sizes_text
from ctxtune.backend.binary import START, Bits
from ctxtune.errors import RecipeError
from ctxtune.methods.choosing import candidates
from ctxtune.methods.layers import depths, inside
from ctxtune.methods.motion import ENDLESS, Span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.recipe.mask import Mask as Settings

LADDER = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4)


class Scores:
    """The steps of the scores, once AdamW has their moments; it moves none itself."""

    ewc = 0.0
    fisher: Tensor | None = None

    def __init__(self, bits: Bits) -> None:
        self.bits = bits
        self.flat = next(iter(bits.scores.values()))

    def pull(self) -> None:
        """Nothing: what is switched off costs nothing, and saves nothing."""

    def after(self, optimizer: Optimizer, cut: float) -> None:
        """The step of all scores."""
        (group,) = optimizer.param_groups
        one, two = group["betas"]
        states = {param: optimizer.state[param] for param in self.bits.scores.values()}
        step = int(states[self.flat]["step"])
        squares = sum(float(state["exp_avg_sq"].sum(dtype=torch.float64)) for state in states.values())
        size = math.sqrt(squares / sum(param.numel() for param in states) / (1 - two**step))
        with torch.no_grad():
            for param, state in states.items():
                param.lerp_(param.new_tensor(START), group["rate"] * group["weight_decay"])
                if size:
                    param.sub_(state["exp_avg"], alpha=group["rate"] / (1 - one**step) / size)

    def facts(self) -> dict[str, float]:
        """How many weights there are, and how many of them are switched off."""
        numbers = sum(param.numel() for param in self.bits.scores.values())
        return {"weights": numbers, "off": numbers - sum(int(self.bits.kept(name).sum()) for name in self.bits.scores)}


@dataclass(frozen=True)
class Opened:
    """Bits on a loaded base."""

    bits: Bits
    start: int
    penalty: Scores
    virtual: None = None
    regrow: None = None
    ladder: Sequence[float] = LADDER

    @property
    def params(self) -> Mapping[str, nn.Parameter]:
        """The scores of each tensor."""
        return self.bits.scores

    def shares(self, step: int, epoch: int) -> dict[str, float]:
        """Of the rate, by AdamW: it keeps the moments of all scores, and moves none."""
        return dict.fromkeys(self.bits.scores, 0.0)

    def finish(self) -> bool:
        """Nothing: the model computes with what the file holds."""
        return False

    def tensors(self) -> dict[str, Tensor]:
        """One bit a weight."""
        return {name + BITS: _packed(self.bits.kept(name)) for name in self.bits.scores}

    def metadata(self) -> dict[str, str]:
        """How large each parameter is."""
        return sizes_text({name: tuple(scores.shape) for name, scores in self.bits.scores.items()})

    def config(self, base_name: str) -> None:
        """None: PEFT has no type for weights that are switched off."""


def open_method(settings: Settings, model: nn.Module, anatomy: Anatomy, span: Span = ENDLESS) -> Opened:
    """Let one bit of each weight of the chosen layers be learned.

    Raises:
        RecipeError: there are no such layers, or something else would have to be learned beside.
    """
    if anatomy.kind == "classifier":
        raise RecipeError(
            "method.learn bits: a classifier that begins at zero has nothing to switch off", "--learn changes"
        )
    names = list(candidates(settings, model, anatomy))
    outside = next((name for name in names if not inside(name, anatomy.blocks)), None)
    if outside is not None:
        raise RecipeError(
            f"method.learn bits: {outside} is no linear layer of a block", "leave embeddings and head out of --layers"
        )
    bits = Bits(model, names)
    bits.learn(anatomy)
    depth = depths(dict(model.named_parameters(remove_duplicate=False)), anatomy, len(anatomy.block_list(model)))
    return Opened(bits, min(depth[id(model.get_parameter(name))] for name in names), Scores(bits))


def _packed(kept: Tensor) -> Tensor:
    if kept.is_meta:  # as many as there will be
        return torch.zeros((kept.numel() + 7) // 8, dtype=torch.uint8)
    return torch.from_numpy(encode(kept.cpu().numpy()))
