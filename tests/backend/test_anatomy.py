"""The table of families against real modules: every name is there, and a block's parts are all of it, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.backend.anatomy import FAMILIES, anatomy_of
from ctxtune.errors import ModelError

from ..conftest import FAMILY_KINDS, HEADLESS_KINDS, NUM_LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.load import Base


def inside(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.")


@pytest.mark.parametrize("kind", [*FAMILY_KINDS, *HEADLESS_KINDS])
def test_every_part_is_there(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    row = base.anatomy
    model: Any = base.model
    assert row.family == model.config.model_type
    blocks = row.block_list(base.model)
    assert blocks is base.model.get_submodule(row.blocks)
    assert len(blocks) == NUM_LAYERS
    for name in (row.backbone, row.blocks, row.head, *row.embeddings, *row.outward, *([row.norm] if row.norm else [])):
        assert base.model.get_submodule(name) is not None
    assert inside(row.blocks, row.backbone)


@pytest.mark.parametrize("kind", [*FAMILY_KINDS, *HEADLESS_KINDS])
def test_the_kinds_of_modules_are_a_block_once(kind: str, open_base: Callable[[str], Base]) -> None:
    row = open_base(kind).anatomy
    block = row.block_list(open_base(kind).model)[0]
    for name, _ in block.named_parameters():
        homes = [part for part in (*row.attn, *row.mlp, *row.norms) if inside(name, part)]
        assert len(homes) == 1, name
    for name in row.norms:
        assert "norm" in type(block.get_submodule(name)).__name__.lower()


@pytest.mark.parametrize("kind", [*FAMILY_KINDS, *HEADLESS_KINDS])
def test_every_parameter_has_a_place(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    row = base.anatomy
    places = [*row.embeddings, row.blocks, row.head, *row.outward, *([row.norm] if row.norm else [])]
    for name, _ in base.model.named_parameters(remove_duplicate=False):
        assert len([place for place in places if inside(name, place)]) == 1, name


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ModelError, match="'mamba' is not supported") as caught:
        anatomy_of("mamba")
    assert all(family in str(caught.value.hint) for family in FAMILIES if family not in ("xlnet", "t5"))


@pytest.mark.parametrize(("family", "said"), [("xlnet", "any order"), ("t5", "an encoder with a decoder")])
def test_a_family_that_does_not_work_yet_says_why(family: str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        anatomy_of(family)
    assert "to adapt, take" in str(caught.value.hint)


@pytest.mark.parametrize("family", ["xlnet", "t5"])
def test_the_rows_of_what_does_not_work_yet_are_true(family: str) -> None:
    """Whoever makes them work finds the parts where the table says."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, XLNetLMHeadModel

    sizes = {"d_model": 16, "n_head": 2, "num_heads": 2, "d_kv": 8, "num_layers": 2, "n_layer": 2}
    config = AutoConfig.for_model(family, vocab_size=32, d_inner=24, d_ff=24, **sizes)
    model = AutoModelForSeq2SeqLM.from_config(config) if family == "t5" else XLNetLMHeadModel(config)
    row = FAMILIES[family]
    block = row.block_list(model)[0]
    for part in (*row.attn, *row.mlp, *row.norms):
        assert block.get_submodule(part) is not None
    for part in (row.backbone, row.head, *row.embeddings, *([row.norm] if row.norm else [])):
        assert model.get_submodule(part) is not None
