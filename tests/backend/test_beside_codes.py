"""Changes beside quantised layers, against dense products with the weights that these compute with, and the changes in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.backend.feed import Feed
from ctxtune.backend.load import load_base
from ctxtune.backend.quantise import Quantised
from ctxtune.backend.trunk import Trunk
from ctxtune.data.encode import encode_pairs
from ctxtune.methods.mask import open_method
from ctxtune.objectives.labels import Labels
from ctxtune.recipe.mask import Mask

from ..conftest import review_rows
from ..methods.test_scoring import as_computed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("quant", ["int8", "nf4"])
@pytest.mark.parametrize("shape", ["columns", "rows", "blocks", "entries"])
@pytest.mark.parametrize("kind", ["llama-untied", "gpt2-tied"])
def test_they_are_those_of_a_dense_weight(kind: str, shape: str, quant: str, model_folders: dict[str, Path]) -> None:
    """With changes of some size in all layers: the losses, and the gradient of each change, through all that lie above it."""
    base = load_base(model_folders[kind], "cpu", quant=quant)
    dense = as_computed(model_folders[kind], base)
    method = open_method(Mask(name="mask", shape=shape, density=0.1), base.model, base.anatomy)
    beside = [name for name in method.mask if isinstance(base.model.get_submodule(name.rpartition(".")[0]), Quantised)]
    assert len(beside) > len(method.mask) / 2
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        method.delta.flat.copy_(0.1 * torch.randn(method.delta.flat.shape, generator=chance))
        for name, values in method.delta.values().items():
            places = method.delta.places(name)
            dense.model.get_parameter(name).view(-1)[places] += values.reshape(-1)
    weights = {name: dense.model.get_parameter(name).requires_grad_(True) for name in method.mask}
    pairs = [(f"Review: {row['text']}\nSentiment:", row["label"]) for row in review_rows(6, 5)]
    examples = encode_pairs(base.tokenizer, pairs, delimiter=" ", kind="causal")
    with Trunk(base, method.start) as trunk, Trunk(dense, method.start) as other:
        losses = [Labels(Feed(one, examples)).loss(range(6)) for one in (trunk, other)]
        for loss in losses:
            loss.backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-4)
    for name, piece in method.delta.pieces.items():
        expected = weights[name].grad.reshape(-1)[method.delta.places(name)]
        assert expected.any(), name
        off = (piece.of(method.delta.flat.grad).reshape(-1) - expected).abs().max()
        assert off <= 1e-4 * expected.abs().max(), name
