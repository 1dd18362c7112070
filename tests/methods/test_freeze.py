"""A choice of layers against the names of real models, which `names_pattern` lists a second time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from ctxtune.errors import RecipeError
from ctxtune.methods.freeze import choose, open_method
from ctxtune.recipe.schema import Freeze

from ..conftest import CHOICES, FAMILY_KINDS, HEADLESS_KINDS, NUM_LAYERS, names_pattern

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base
    from ctxtune.methods.freeze import Opened

EVERY = (*FAMILY_KINDS, *HEADLESS_KINDS)
LAYERS = (
    "all", "last:1", "last:4", "first:1", "first:3", "1-2", "2", "1-2.mlp", "last:2.attn", "0.norms", "attn", "mlp", "norms",
    "last:2+norms", "embeddings", "head", "last:1 + head", "2+2+last:2.mlp",
)  # fmt: skip


def names_of(base: Base) -> list[str]:
    return [name for name, _ in base.model.named_parameters(remove_duplicate=False)]


def pick(layers: str, base: Base) -> list[str]:
    return choose(layers, names_of(base), base.anatomy, NUM_LAYERS)


def opened(layers: str, base: Base) -> Opened:
    return open_method(Freeze(name="freeze", layers=layers), base.model, base.anatomy)


@pytest.mark.parametrize("kind", EVERY)
def test_every_choice_takes_the_right_names(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    for layers in LAYERS:
        pattern = names_pattern(layers, base.anatomy)
        wanted = [name for name in names_of(base) if re.match(pattern, name)]
        assert wanted
        assert pick(layers, base) == wanted, layers


STARTS = {
    "all": 0, "last:1": 3, "last:4": 0, "first:1": 0, "1-2": 1, "2": 2, "1-2.mlp": 1, "last:2.attn": 2, "norms": 0,
    "last:2+norms": 0, "embeddings": 0, "last:1+embeddings": 0,
}  # fmt: skip


@pytest.mark.parametrize("kind", EVERY)
def test_the_lowest_block_that_moves(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    for layers, start in STARTS.items():
        assert opened(layers, base).start == start, layers


@pytest.mark.parametrize("layers", ["head", "head+last:1"])
@pytest.mark.parametrize("kind", EVERY)
def test_a_tied_head_moves_what_enters_the_first_block(
    kind: str, layers: str, open_base: Callable[[str], Base]
) -> None:
    untied = {"head": NUM_LAYERS, "head+last:1": NUM_LAYERS - 1}
    assert opened(layers, open_base(kind)).start == (0 if kind.endswith("-tied") else untied[layers])


WRONG = {
    "last:5": "does not fit", "first:5": "does not fit", "4": "does not fit", "2-4": "does not fit",
    "last:999999": "does not fit",
}  # fmt: skip


@pytest.mark.parametrize(("layers", "said"), WRONG.items())
def test_what_the_model_does_not_have(layers: str, said: str, open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    with pytest.raises(RecipeError, match=said) as caught:
        pick(layers, base)
    assert "last:4" in str(caught.value.hint)
    assert "\n" not in str(caught.value)


def test_how_many_layers_there_are_is_said(open_base: Callable[[str], Base]) -> None:
    with pytest.raises(RecipeError, match="the model has 4 layers, 0 to 3"):
        pick("last:12", open_base("gpt2-tied"))


def test_a_choice_without_parameters(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    names = [name for name in names_of(base) if "norm" not in name]
    with pytest.raises(RecipeError, match="chooses no parameter"):
        choose("norms", names, base.anatomy, NUM_LAYERS)


def test_layer_1_is_not_layer_10(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(12)]
    assert choose("1", names, base.anatomy, 12) == ["model.layers.1.mlp.up_proj.weight"]
    assert choose("10-11", names, base.anatomy, 12) == names[10:]


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("layers", ["all", "last:1", "embeddings", "head", "last:2+norms"])
def test_the_chosen_train_and_no_others(kind: str, layers: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    chosen = pick(f"{layers}+head" if kind in HEADLESS_KINDS else layers, base)  # a classifier always moves
    params = opened(layers, base).params
    moving = {id(dict(base.model.named_parameters(remove_duplicate=False))[name]) for name in chosen}
    for name, parameter in base.model.named_parameters(remove_duplicate=False):
        assert parameter.requires_grad == (id(parameter) in moving), name
    assert len({id(parameter) for parameter in params.values()}) == len(params) == len(moving)
    assert set(params) <= set(chosen)
    assert all(base.model.get_parameter(name) is parameter for name, parameter in params.items())


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("layers", ["all", "last:1", "embeddings", "head", "1-2.mlp", "last:2+norms"])
def test_whole_leaf_modules_are_stored(kind: str, layers: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    method = opened(layers, base)
    modules = method.modules
    moving = {id(parameter) for parameter in method.params.values()}
    stored: set[int] = set()
    for name, values in modules.items():
        module = base.model.get_submodule(name)
        assert not list(module.children())
        own = dict(module.named_parameters())
        assert values.keys() == own.keys()
        assert all(values[key].data_ptr() == own[key].data_ptr() for key in own)
        assert not any(value.requires_grad for value in values.values())
        stored |= {id(parameter) for parameter in own.values()}
    assert moving <= stored
    # Every leaf module that computes with a moved number is there: PEFT replaces modules, not parameters.
    for name, module in base.model.named_modules(remove_duplicate=False):
        if not list(module.children()) and {id(parameter) for parameter in module.parameters()} & moving:
            assert name in modules


@pytest.mark.parametrize(("kind", "twins"), [
    ("llama-tied", {"model.embed_tokens", "lm_head"}),
    ("gpt2-tied", {"transformer.wte", "lm_head"}),
    ("bert-tied", {"bert.embeddings.word_embeddings", "cls.predictions.decoder"}),
])  # fmt: skip
@pytest.mark.parametrize("layers", ["embeddings", "head"])
def test_tied_modules_are_stored_under_both_names(
    kind: str, twins: set[str], layers: str, open_base: Callable[[str], Base]
) -> None:
    base = open_base(kind)
    assert twins <= opened(layers, base).modules.keys()


def test_a_skeleton_opens_as_the_model_does(model_folders: dict[str, Path], open_base: Callable[[str], Base]) -> None:
    """On the meta device, as the dry run opens it."""
    from ctxtune.backend.skeleton import skeleton

    for kind in EVERY:
        base = open_base(kind)
        model, anatomy = skeleton(model_folders[kind], CHOICES)
        for layers in LAYERS:
            ours, theirs = open_method(Freeze(name="freeze", layers=layers), model, anatomy), opened(layers, base)
            assert {name: value.shape for name, value in ours.tensors().items()} == {
                name: value.shape for name, value in theirs.tensors().items()
            }
            assert (ours.start, list(ours.params)) == (theirs.start, list(theirs.params))
