"""The methods by name, imported when they are asked for, and what each of them must offer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

from ctxtune.methods.motion import ENDLESS, Span
from ctxtune.recipe.mask import Mask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.prefix import Prefix
    from ctxtune.backend.trunk import Trunk
    from ctxtune.methods.motion import Backward
    from ctxtune.recipe.schema import Method as Settings

_MODULES = {"freeze": "ctxtune.methods.freeze", "mask": "ctxtune.methods.mask", "prompt": "ctxtune.methods.prompt"}

_BITS = "ctxtune.methods.bits"


class Virtual(Protocol):
    """Virtual tokens that are learned, numbers below 0."""

    @property
    def tokens(self) -> tuple[int, ...]: ...

    @property
    def suffix(self) -> int:
        """How many of them stand behind what is asked: all or none."""

    def begin(self, trunk: Trunk, tokens: Sequence[int]) -> None:
        """Start as what the model makes of these, one for each."""

    def begin_among(self, trunk: Trunk, tokens: Sequence[int], questions: Sequence[Sequence[int]]) -> None:
        """Start as those of more tokens at which these questions look most."""

    @property
    def among(self) -> bool:
        """Whether it was begun in this way."""

    def begin_as(self, trunk: Trunk, rows: Tensor) -> None:
        """Start as an earlier prompt, a row for each."""

    def prefix(self, trunk: Trunk) -> Prefix:
        """Their keys and values as they are now, where they stand before every text."""


class Regrow(Protocol):
    """Which of a model's numbers move, where that changes as a run goes on: their number stays, and so do the parameters."""

    def after(self, step: int, optimizer: Optimizer, backward: Backward, clip: float | None) -> None:
        """What follows a step, counted from 1; the loop cuts gradients to the norm `clip`."""

    def state(self) -> Mapping[str, Tensor]:
        """Which they are now: part of a checkpoint."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Those of a checkpoint."""


class Penalty(Protocol):
    """What the loop asks of a cost beside the loss of the rows, and what a result tells of it.

    Where `ewc` is not 0, `fisher` is what the base minds of each number of `flat`: it is set before the first step.
    """

    flat: nn.Parameter
    ewc: float
    fisher: Tensor | None

    def pull(self) -> None:
        """Add its gradient to that of the rows, once a step."""

    def after(self, optimizer: Optimizer, cut: float) -> None:
        """What follows a step, whose gradient was clipped to so much of itself."""

    def facts(self) -> dict[str, float]:
        """What the numbers cost as they stand."""


class Method(Protocol):
    """A method opened on a base: the base then runs as adapted, and before the first step as it always did.

    Whatever is not in `params` stays bit for bit as it was.
    """

    @property
    def params(self) -> Mapping[str, nn.Parameter]:
        """The numbers that ever move, each once."""

    def shares(self, step: int, epoch: int) -> Mapping[str, float]:
        """Those that move in a step, each with its share of the rate."""

    @property
    def start(self) -> int:
        """The lowest block that any of them touches: what lies below can be run once and kept."""

    @property
    def ladder(self) -> Sequence[float]:
        """The rates that `lr: auto` tries, upwards."""

    @property
    def virtual(self) -> Virtual | None:
        """Tokens that stand before every text, or behind it; None where the model itself changes."""

    @property
    def regrow(self) -> Regrow | None:
        """What changes of which numbers these are; None where they stay."""

    @property
    def penalty(self) -> Penalty | None:
        """What the numbers cost beside the loss of the rows; None where that is nothing."""

    def finish(self) -> bool:
        """What is done to the numbers when training is over, before they are written; whether that changes them."""

    def tensors(self) -> dict[str, Tensor]:
        """What the adapter file holds, under PEFT's names where PEFT has the method."""

    def metadata(self) -> dict[str, str]:
        """What its header says besides the manifest."""

    def config(self, base_name: str) -> dict[str, Any] | None:
        """PEFT's adapter_config.json; None where PEFT does not have the method."""


def open_method(settings: Settings, model: nn.Module, anatomy: Anatomy, span: Span = ENDLESS) -> Method:
    """Open the method that a recipe names on a model; one on the meta device tells what would be trained and written.

    span is the run to come.

    Raises:
        RecipeError: the settings do not fit this model.
    """
    bits = isinstance(settings, Mask) and settings.learn == "bits"
    module = importlib.import_module(_BITS if bits else _MODULES[settings.name])
    return cast("Method", module.open_method(settings, model, anatomy, span))
