"""How many units a choice takes of each tensor: as many numbers as were asked for, and never more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ctxtune.backend.load import load_base
from ctxtune.backend.mask import Part, numel, units
from ctxtune.errors import RecipeError
from ctxtune.methods.choosing import drawn, ranked
from ctxtune.methods.mask import open_method
from ctxtune.recipe.mask import Mask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from ctxtune.backend.mask import Kind

SIZES = ((72, 72), (24, 72), (24, 72), (72, 72), (192, 72), (192, 72), (72, 192))
KINDS: tuple[Kind, ...] = ("rows", "columns", "blocks", "entries")
SHARES = (0.002, 0.01, 0.0137, 0.026, 0.043, 0.1, 0.5, 1.0)


def layers(kind: Kind, count: int = 10) -> dict[str, Part]:
    """All units of the linear layers of so many blocks."""
    return {
        f"{layer}.{at}": Part(kind, size, np.arange(units(kind, size)))
        for layer in range(count)
        for at, size in enumerate(SIZES)
    }


def widest(whole: Mapping[str, Part]) -> int:
    return max(part.numel // len(part.index) for part in whole.values())


def scores_of(whole: Mapping[str, Part], levels: int | None) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(0)
    found = {name: torch.rand(len(part.index), generator=chance) for name, part in whole.items()}
    return found if levels is None else {name: (some * levels).floor() for name, some in found.items()}


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", KINDS)
def test_by_lot_each_tensor_gets_its_share(kind: Kind, share: float) -> None:
    whole = layers(kind)
    kinds, sizes = dict.fromkeys(whole, kind), {name: part.size for name, part in whole.items()}
    found = drawn(kinds, sizes, share, 3)
    assert 0 <= share * numel(whole) - numel(found) < widest(whole)
    for name, part in whole.items():
        index = found[name].index if name in found else np.arange(0)
        assert abs(len(index) - share * len(part.index)) < 1
        assert len(np.unique(index)) == len(index)
        assert not len(index) or index.max() < len(part.index)
    if 0.01 < share < 1:
        other = drawn(kinds, sizes, share, 4)
        assert any(not np.array_equal(found[name].index, other[name].index) for name in found if name in other)


@pytest.mark.parametrize("levels", [None, 5, 1], ids=["all apart", "many alike", "all alike"])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_highest_fill_the_budget(kind: Kind, share: float, levels: int | None) -> None:
    """None that is left is higher than one that is taken, but for what a tensor keeps in any case."""
    whole = layers(kind)
    scores = scores_of(whole, levels)
    found = ranked(whole, scores, share)
    assert 0 <= share * numel(whole) - numel(found) < widest(whole)
    taken = {name: scores[name][found[name].index] for name in found}
    one = sum(part.numel // len(part.index) for part in whole.values()) <= share * numel(whole)
    least = {name: max(int(one), int(0.1 * share * len(part.index))) for name, part in whole.items()}
    assert not one or set(found) == set(whole)
    lowest = min(float(some.min()) for name, some in taken.items() if len(some) > least[name])
    for name, some in scores.items():
        rest = np.delete(some.numpy(), found[name].index) if name in found else some.numpy()
        higher = rest[rest > lowest]
        assert len(higher) * whole[name].numel // len(whole[name].index) < 2 * widest(whole)
    if levels == 1 and share * min(len(part.index) for part in whole.values()) > 1:  # no layer before another
        for at in range(len(SIZES)):
            counts = [len(found[f"{layer}.{at}"].index) for layer in range(10)]
            assert max(counts) - min(counts) <= 1


def test_less_than_a_unit_is_refused(model_folders: dict[str, Path]) -> None:
    """By its name, with what a unit has."""
    base = load_base(model_folders["llama-untied"], "cpu")
    for asked in ({"budget": 3}, {"density": 1e-6}):
        key, value = next(iter(asked.items()))
        with pytest.raises(
            RecipeError, match=rf"method\.{key} {value:g} chooses nothing: .* has \d+ numbers"
        ) as caught:
            open_method(Mask(name="mask", **asked), base.model, base.anatomy)
        assert "--shape entries" in str(caught.value.hint)
    assert numel(open_method(Mask(name="mask", shape="entries", budget=3), base.model, base.anatomy).mask) == 3


def test_one_home_is_told_from_two(model_folders: dict[str, Path]) -> None:
    """A weight that two layers share moves for both: its gradient is that of the whole."""
    base, other = (load_base(model_folders["llama-untied"], "cpu") for _ in range(2))
    for one in (base, other):
        first, last = one.model.model.layers[0].mlp, one.model.model.layers[2].mlp
        last.up_proj.weight = first.up_proj.weight
    name = "model.layers.0.mlp.up_proj.weight"
    method = open_method(Mask(name="mask", density=0.2), base.model, base.anatomy)
    ids = torch.arange(5, 20)[None]
    base.model(input_ids=ids, labels=ids).loss.backward()
    weight = other.model.get_parameter(name).requires_grad_(True)
    other.model(input_ids=ids, labels=ids).loss.backward()
    piece = method.delta.pieces[name]
    dense = weight.grad.reshape(-1)[torch.from_numpy(piece.part.entries())]
    found = piece.of(method.delta.flat.grad).reshape(-1)
    assert dense.any()
    assert torch.allclose(found, dense, rtol=1e-4, atol=1e-7)
