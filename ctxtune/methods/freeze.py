"""Freeze: whole layers, or kinds of modules in them, are trained; everything else stays as it is.

Layer-wise tuning keeps what the lower layers know and lets the upper ones change (Howard & Ruder 2018; Lee et al. 2019,
"What would Elsa do?"). Because the layers below the lowest trained one never change, what they say of an example is
computed once (backend/cache.py).

A choice of layers is a sum of terms:

    term   = which ["." kind] | name              last:4 | first:2 | 10-19 | 7 | all | last:4.mlp | norms | embeddings
    which  = last:N | first:N | A-B | A           blocks, numbered from 0
    kind   = attn | mlp | norms                   a part of these blocks only
    name   = all | attn | mlp | norms | embeddings | head      of the whole model; `norms` includes the final norm

Whole modules move: a weight with its bias; when and how fast is said in motion.py. The classifier that an encoder without
a head gets moves with whatever is chosen; `head` is it alone. A trained layer is written as PEFT's LN_TUNING, whose files
hold whole weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.container import layer_config, layer_tensors
from ctxtune.errors import RecipeError
from ctxtune.methods.motion import ENDLESS, Motion, Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.recipe.schema import Freeze

_KINDS = ("attn", "mlp", "norms")
_NAMES = ("all", *_KINDS, "embeddings", "head")
_TERM = re.compile(r"(?:(last|first):([0-9]{1,6})|([0-9]{1,6})-([0-9]{1,6})|([0-9]{1,6}))(?:\.(attn|mlp|norms))?\Z")
_GRAMMAR = "write for example last:4, first:2, 10-19, last:4.mlp, last:4+norms, all, embeddings or head"


def choose(layers: str, names: Sequence[str], anatomy: Anatomy, num_layers: int) -> list[str]:
    """The parameters that `layers` names, in the model's order, out of all its parameter names (tied ones under each).

    Raises:
        RecipeError: the text is not a choice of layers, names a block that is not there, or chooses nothing.
    """
    prefixes = [prefix for term in layers.split("+") for prefix in _prefixes(term.strip(), anatomy, num_layers)]
    chosen = [name for name in names if any(_inside(name, prefix) for prefix in prefixes)]
    if not chosen:
        raise RecipeError(f"method.layers {layers!r} chooses no parameter of this model", _GRAMMAR)
    return chosen


def _prefixes(term: str, anatomy: Anatomy, num_layers: int) -> Iterator[str]:
    """Module names that a term stands for; the empty one stands for all."""
    if term in _NAMES:
        yield from _named(term, anatomy, num_layers)
        return
    match = _TERM.match(term)
    if match is None:
        raise RecipeError(f"method.layers: {term!r} is not a choice of layers", _GRAMMAR)
    kind = match[6]
    for index in _blocks(match, num_layers):
        block = f"{anatomy.blocks}.{index}"
        yield from (f"{block}.{part}" for part in getattr(anatomy, kind)) if kind else (block,)


def _named(name: str, anatomy: Anatomy, num_layers: int) -> Iterator[str]:
    if name == "all":
        yield ""
    elif name == "embeddings":
        yield from anatomy.embeddings
    elif name == "head":
        yield from (anatomy.head, *anatomy.outward)
    else:
        yield from (f"{anatomy.blocks}.{i}.{part}" for i in range(num_layers) for part in getattr(anatomy, name))
        if name == "norms" and anatomy.norm:
            yield anatomy.norm


def _blocks(match: re.Match[str], num_layers: int) -> range:
    end, count, low, high, one = match[1], match[2], match[3], match[4], match[5]
    if end:
        chosen = range(num_layers - int(count), num_layers) if end == "last" else range(int(count))
    elif one:
        chosen = range(int(one), int(one) + 1)
    else:
        chosen = range(int(low), int(high) + 1)
    if not chosen:
        raise RecipeError(f"method.layers: {match[0]!r} is empty", _GRAMMAR)
    if chosen.start < 0 or chosen.stop > num_layers:
        raise RecipeError(
            f"method.layers: {match[0]!r} does not fit: the model has {num_layers} layers, 0 to {num_layers - 1}",
            _GRAMMAR,
        )
    return chosen


def _inside(name: str, prefix: str) -> bool:
    return not prefix or name.startswith(f"{prefix}.")


def _depth(name: str, anatomy: Anatomy, num_layers: int) -> int:
    """The block that a parameter belongs to; 0 for embeddings, the number of blocks for what comes after the last one."""
    if _inside(name, anatomy.blocks):
        return int(name[len(anatomy.blocks) + 1 :].split(".", 1)[0])
    return num_layers if anatomy.in_head(name) or (anatomy.norm and _inside(name, anatomy.norm)) else 0


@dataclass(frozen=True)
class Opened:
    """Freeze on a loaded base. `modules` are the modules that hold a trained number: name -> {weight, bias}."""

    params: Mapping[str, nn.Parameter]
    start: int
    modules: Mapping[str, Mapping[str, Tensor]]
    causal: bool
    motion: Motion

    def shares(self, step: int, epoch: int) -> dict[str, float]:
        """The numbers that move in a step, each with its share of the rate."""
        return self.motion.shares(step, epoch)

    def tensors(self) -> dict[str, Tensor]:
        """The trained modules whole, as LN_TUNING stores them."""
        return layer_tensors(self.modules)

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
    # A tied head moves the embeddings: the lowest block counts under each of a parameter's names.
    depth: dict[int, int] = {}
    for name, param in everything.items():
        here = _depth(name, anatomy, num_layers)
        depth[id(param)] = min(depth.get(id(param), here), here)
    layer = {name: min(depth[id(param)], num_layers - 1) for name, param in chosen.items()}
    outside = frozenset(name for name in chosen if not _inside(name, anatomy.blocks))
    motion = Motion(layer, outside, settings, span)
    ever = motion.ever()
    params = {name: param for name, param in chosen.items() if name in ever}
    for param in params.values():
        param.requires_grad_(True)
    start = min(depth[id(param)] for param in params.values())
    return Opened(params, start, by_module(model, params), anatomy.kind == "causal", motion)


def unique(everything: Mapping[str, nn.Parameter], names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The named parameters. Tied ones appear once, under their first name."""
    params: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name in names:
        param = everything[name]
        if id(param) not in seen:
            seen.add(id(param))
            params[name] = param
    return params


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
