"""What speaks for each unit of a tensor: the mean, over its entries, of what its weights are or what the loss says of them.

    magnitude   |W|
    lift        |W_r|, W_r the approximation of rank r nearest to W     (Liu et al. 2025, "LIFT": principal weights)
    fisher      sum_t g_t^2                                             (Sung et al. 2021, "FISH": empirical Fisher)
    snip        |W sum_t g_t|                                           (Lee et al. 2019)
    movement    -W sum_t g_t                                            (Sanh et al. 2020)
    grad        |sum_t g_t|                                             (Evci et al. 2020, "RigL"; goes on in regrow.py)
    contrast    sum_t g_t^2 / (F + F_mean / 100)                        (Foster et al. 2024, "SSD", who so find what to unlearn)

g_t is the gradient of the mean loss of a pass over training rows, with the labels they have; W is as the files have it. A pass
is a batch, or as much of it as fits one; FISH squares the gradient of every row by itself, which is batches of one. Movement is
a sum over the steps of a training in which W moves: here it stays, as in the first of them, and the rows are those of many.
F is what the base minds of a change (evals/curvature.py), by a text that is none of the rows, F_mean its mean over a tensor:
high is what the rows ask for and the text has little part in. Where F is far below F_mean the rows alone rank.

Gradients are read one tensor at a time. Kept from pass to pass is one number a unit, where a unit's mean is a sum over passes
(fisher, movement, contrast), and else sum_t g_t.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctxtune.backend.gradients import reading_gradients
from ctxtune.backend.mask import side_of, units
from ctxtune.backend.quantise import Quantised
from ctxtune.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch import nn

    from ctxtune.backend.mask import Kind
    from ctxtune.methods.motion import Backward
    from ctxtune.recipe.mask import Mask as Settings

_EXACT = 128  # the smaller side of a matrix, up to which all singular values cost no more than the largest few
_MORE = 8  # directions beside those asked for, and passes, with which the largest are found (Halko et al. 2011)
_PASSES = 4
_LITTLE = 0.01  # of the mean of what the base minds of a tensor's units: what is below counts as equal


def of_weights(settings: Settings, model: nn.Module, kinds: Mapping[str, Kind], seed: int) -> dict[str, Tensor]:
    """Name of a tensor -> what its weights say for each of its units (n,)."""
    found = {}
    for name, kind in kinds.items():
        weight = float_weight(model, name)
        near = weight if settings.select == "magnitude" else low_rank(weight, settings.rank, seed)
        found[name] = means(near.abs(), kind)
    return found


def of_gradients(
    settings: Settings, model: nn.Module, kinds: Mapping[str, Kind], backward: Backward
) -> dict[str, Tensor]:
    """Name of a tensor -> what the loss says for each of its units (n,).

    Raises:
        RecipeError: the loss says nothing of any of them, or is no number.
    """

    def of(name: str, gradient: Tensor) -> Tensor:
        if settings.select in ("fisher", "contrast"):
            return means(gradient.square(), kinds[name])
        if settings.select == "movement":
            return means(-float_weight(model, name) * gradient, kinds[name])
        return gradient

    sums, _ = summed(model, kinds, lambda: backward(0, settings.score_batches, settings.score_rows), of)
    found = {}
    for name, kind in kinds.items():
        weight = float_weight(model, name)
        if name not in sums:  # the rows never come by it
            found[name] = weight.new_zeros(units(kind, tuple(weight.shape)))
        elif settings.select in ("snip", "grad"):
            found[name] = means((weight * sums[name] if settings.select == "snip" else sums[name]).abs(), kind)
        else:
            found[name] = sums[name]
    _check_told(settings, found)
    return found


def contrasted(asked: Mapping[str, Tensor], minded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the rows ask of each unit, over what the base minds of it: both the mean over the unit of squares of gradients.

    It is put in the place of what the rows ask: of single entries either is as large as the model.
    """

    def over(said: Tensor, fisher: Tensor | None) -> Tensor:
        if fisher is None or not fisher.any():  # the text never comes by
            return said
        return said.div_(fisher + _LITTLE * fisher.mean())

    return {name: over(said, minded.get(name)) for name, said in asked.items()}


def summed(
    model: nn.Module, names: Collection[str], backward: Callable[[], None],
    of: Callable[[str, Tensor], Tensor] = lambda name, gradient: gradient,
) -> tuple[dict[str, Tensor], int]:  # fmt: skip
    """The sum over the passes of `backward` of what each tensor's gradient comes to, and how many passes these were.

    A tensor that no pass comes by is not among them.
    """
    sums: dict[str, Tensor] = {}
    passes: Counter[str] = Counter()

    def see(name: str, gradient: Tensor) -> None:
        with torch.no_grad():
            seen = of(name, gradient.to(torch.promote_types(gradient.dtype, torch.float32)))
            sums[name] = sums[name].add_(seen) if name in sums else seen.clone()
            passes[name] += 1

    with reading_gradients(model, names, see):
        backward()
    return sums, max(passes.values(), default=0)


def _check_told(settings: Settings, sums: Mapping[str, Tensor]) -> None:
    said = f"method.select {settings.select}"
    if not all(bool(one.isfinite().all()) for one in sums.values()):
        raise RecipeError(f"{said}: the gradients are no numbers", "--select random, or look at the rows")
    if not any(bool(one.any()) for one in sums.values()):
        raise RecipeError(
            f"{said}: the training rows say nothing of these weights, all gradients are 0",
            "below a classifier that begins at zero nothing has one: --select random",
        )


def float_weight(model: nn.Module, name: str) -> Tensor:
    """A tensor as the files have it, in float32 at least; of a quantised layer as it is computed with."""
    module: Any = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, Quantised):
        weight = module.float_weight()
        return weight.t() if module.turned else weight
    param = model.get_parameter(name).detach()
    return param.to(torch.promote_types(param.dtype, torch.float32))


def low_rank(weight: Tensor, rank: int, seed: int) -> Tensor:
    """The matrix of that rank nearest to W (N, K): its largest singular values, by random projections of a large one.

    A vector stays as it is.
    """
    if weight.dim() != 2 or rank >= min(weight.shape):
        return weight
    if min(weight.shape) <= _EXACT:
        left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    else:
        with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
            torch.manual_seed(seed)
            left, sizes, right = torch.svd_lowrank(weight, min(rank + _MORE, *weight.shape), _PASSES)
        right = right.t()
    near: Tensor = (left[:, :rank] * sizes[:rank]) @ right[:rank]
    return near


def means(entries: Tensor, kind: Kind) -> Tensor:
    """The mean of each unit over what stands for its entries, given in the shape of the tensor."""
    if kind == "entries":
        return entries.reshape(-1)
    if kind == "blocks":
        (down, across), side = entries.shape, side_of(tuple(entries.shape))
        return entries.reshape(down // side, side, across // side, side).mean((1, 3)).reshape(-1)
    return entries.mean(1 if kind == "rows" else 0)
