"""Freeze: whole layers, or kinds of modules in them, are trained; everything else stays as it is.

Layer-wise tuning keeps what the lower layers know and lets the upper ones change (Howard & Ruder 2018; Lee et al. 2019,
"What would Elsa do?"). Because the layers below the lowest trained one never change, what they say of an example is
computed once (backend/cache.py).

How a choice of layers is written stands in recipe/layers.py.

Whole modules move: a weight with its bias; when and how fast is said in motion.py. The classifier that an encoder without
a head gets moves with whatever is chosen; `head` is it alone. A trained layer is written as PEFT's LN_TUNING, whose files
hold whole weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.container import layer_config, layer_tensors
from ctxtune.methods.layers import choose, depths, inside, unique
from ctxtune.methods.motion import ENDLESS, Motion, Span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.recipe.schema import Freeze


LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class Opened:
    """Freeze on a loaded base. `modules` are the modules that hold a trained number: name -> {weight, bias}."""

    params: Mapping[str, nn.Parameter]
    start: int
    modules: Mapping[str, Mapping[str, Tensor]]
    causal: bool
    motion: Motion
    virtual: None = None
    regrow: None = None
    penalty: None = None
    ladder: Sequence[float] = LADDER

    def shares(self, step: int, epoch: int) -> dict[str, float]:
        """The numbers that move in a step, each with its share of the rate."""
        return self.motion.shares(step, epoch)

    def finish(self) -> bool:
        """Nothing: they are written as they are."""
        return False

    def tensors(self) -> dict[str, Tensor]:
        """The trained modules whole, as LN_TUNING stores them."""
        return layer_tensors(self.modules)

    def metadata(self) -> dict[str, str]:
        """Names say it all."""
        return {}

    def config(self, base_name: str) -> dict[str, Any]:
        """PEFT's configuration of the container."""
        return layer_config(self.modules, base_name, self.causal)


def open_method(settings: Freeze, model: nn.Module, anatomy: Anatomy, span: Span = ENDLESS) -> Opened:
    """Let the chosen parameters of a model train, as far as a run of this span ever moves them.

    Raises:
        RecipeError: `settings.layers` or `settings.sample` does not fit the model.
    """
    everything = dict(model.named_parameters(remove_duplicate=False))
    num_layers = len(anatomy.block_list(model))
    layers = settings.layers
    if anatomy.kind == "classifier":  # it begins at zero: without it nothing below could be learned
        layers += "+head"
    chosen = unique(everything, choose(layers, list(everything), anatomy, num_layers))
    depth = depths(everything, anatomy, num_layers)
    layer = {name: min(depth[id(param)], num_layers - 1) for name, param in chosen.items()}
    outside = frozenset(name for name in chosen if not inside(name, anatomy.blocks))
    motion = Motion(layer, outside, settings, span)
    ever = motion.ever()
    params = {name: param for name, param in chosen.items() if name in ever}
    for param in params.values():
        param.requires_grad_(True)
    start = min(depth[id(param)] for param in params.values())
    return Opened(params, start, by_module(model, params), anatomy.kind == "causal", motion)


def by_module(model: nn.Module, params: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Tensor]]:
    """Module name -> {weight, bias} of each module that holds a trained number, tied ones under each of their names.

    PEFT replaces modules, not parameters: a tied embedding that is stored under one name only would leave the head as it
    was, without a word.
    """
    moved = {id(param) for param in params.values()}
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        own = dict(module.named_parameters(recurse=False))
        if any(id(param) in moved for param in own.values()) and not any(True for _ in module.children()):
            found[name] = {key: param.detach() for key, param in own.items()}
    return found
