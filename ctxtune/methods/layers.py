"""The parameters of a model that a choice of layers stands for (its grammar: recipe/layers.py), and how deep each lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxtune.errors import RecipeError
from ctxtune.recipe.layers import GRAMMAR, read_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.recipe.layers import Term


def choose(layers: str, names: Sequence[str], anatomy: Anatomy, num_layers: int) -> list[str]:
    """The parameters that `layers` names, in the model's order, out of all its parameter names (tied ones under each).

    Raises:
        RecipeError: it names a block that is not there, or chooses nothing.
    """
    prefixes = [prefix for term in read_layers(layers) for prefix in _prefixes(term, anatomy, num_layers)]
    chosen = [name for name in names if any(inside(name, prefix) for prefix in prefixes)]
    if not chosen:
        raise RecipeError(f"method.layers {layers!r} chooses no parameter of this model", GRAMMAR)
    return chosen


def _prefixes(term: Term, anatomy: Anatomy, num_layers: int) -> Iterator[str]:
    """Module names that a term stands for; the empty one stands for all."""
    if term.name:
        yield from _named(term.name, anatomy, num_layers)
        return
    for index in _blocks(term, num_layers):
        block = f"{anatomy.blocks}.{index}"
        yield from (f"{block}.{part}" for part in getattr(anatomy, term.kind)) if term.kind else (block,)


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


def _blocks(term: Term, num_layers: int) -> range:
    from_top = num_layers if term.begin < 0 else 0
    chosen = range(from_top + term.begin, from_top + term.end)
    if chosen.start < 0 or chosen.stop > num_layers:
        raise RecipeError(
            f"method.layers: {term.text!r} does not fit: the model has {num_layers} layers, 0 to {num_layers - 1}",
            GRAMMAR,
        )
    return chosen


def inside(name: str, prefix: str) -> bool:
    """Whether a parameter lies in a module; all lie in the one without a name."""
    return not prefix or name.startswith(f"{prefix}.")


def depth_of(name: str, anatomy: Anatomy, num_layers: int) -> int:
    """The block that a parameter belongs to; 0 for embeddings, the number of blocks for what comes after the last one."""
    if inside(name, anatomy.blocks):
        return int(name[len(anatomy.blocks) + 1 :].split(".", 1)[0])
    return num_layers if anatomy.in_head(name) or (anatomy.norm and inside(name, anatomy.norm)) else 0


def depths(everything: Mapping[str, nn.Parameter], anatomy: Anatomy, num_layers: int) -> dict[int, int]:
    """id of a parameter -> the lowest block that it belongs to under any of its names: a tied head moves the embeddings."""
    found: dict[int, int] = {}
    for name, param in everything.items():
        here = depth_of(name, anatomy, num_layers)
        found[id(param)] = min(found.get(id(param), here), here)
    return found


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
