"""What `ctxtune pretrain` means: a new model without --model, and with it a base that goes on, by one of the methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.cli import freeze, pretrain
from ctxtune.errors import RecipeError
from ctxtune.recipe.load import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.recipe.schema import Recipe

    Asked = Callable[..., Recipe]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """asked(...): the recipe that options of the command make."""

    def asked(recipe: str | None = None, **options: Any) -> Recipe:
        found: list[Recipe] = []

        def start(source: str | None, given: dict[str, object], sets: list[str], *rest: object) -> None:
            found.append(load(source, given, sets).recipe)

        monkeypatch.setattr(freeze, "start", start)
        pretrain.pretrain(recipe, train=["a.txt"], **options)
        return found[0]

    return asked


def test_without_a_model_a_new_one_is_made(asked: Asked) -> None:
    recipe = asked(depth=2)
    assert (recipe.method.name, recipe.model, recipe.data.text) == ("pretrain", "scratch", "{{ text }}")


@pytest.mark.parametrize(
    ("options", "name", "layers"),
    [
        ({}, "freeze", "all"),
        ({"method": "full"}, "freeze", "all"),
        ({"layers": "last:4"}, "freeze", "last:4"),
        ({"method": "freeze"}, "freeze", "last:4"),
        ({"method": "freeze", "layers": "first:2"}, "freeze", "first:2"),
        ({"method": "mask"}, "mask", "all"),
        ({"method": "mask", "layers": "last:2"}, "mask", "last:2"),
        ({"method": "prompt"}, "prompt", None),
    ],
)
def test_with_a_model_it_goes_on(options: dict[str, Any], name: str, layers: str | None, asked: Asked) -> None:
    recipe = asked(model="m", **options)
    assert (recipe.method.name, getattr(recipe.method, "layers", None)) == (name, layers)
    assert (recipe.model, recipe.data.text, recipe.train.epochs, recipe.train.optimizer) == (
        "m",
        "{{ text }}",
        1.0,
        "adamw",
    )


def test_what_else_is_said_of_it(asked: Asked) -> None:
    recipe = asked(model="m", replay="old.txt:10%", forget_budget=0.02, set_=["data.text={{ title }}: {{ body }}"])
    assert recipe.data.replay is not None
    assert recipe.data.replay.endswith("/old.txt")
    assert (recipe.data.replay_share, recipe.forget.budget, recipe.data.text) == (0.1, 0.02, "{{ title }}: {{ body }}")


def test_a_recipe_says_what_moves(asked: Asked) -> None:
    recipe = asked("domain", model="m")
    assert (recipe.method.name, getattr(recipe.method, "layers", None)) == ("freeze", "last:4")
    assert recipe.data.text == load("domain", {}).recipe.data.text
    assert asked("domain", method="freeze").model == "smollm2-135m-instruct-q4"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "m", "method": "lora"}, "--method is 'lora', allowed: full, freeze, mask or prompt"),
        ({"model": "m", "method": "full", "layers": "last:4"}, "--method full moves all layers, --layers names last:4"),
        ({"model": "m", "depth": 4}, "--depth: method.depth is no key of method freeze"),
        ({"model": "m", "optimizer": "muon"}, "optimizer muon is for whole models"),
        ({"layers": "last:4"}, "--layers: method.layers is no key of method pretrain"),
        ({"replay": "old.txt:0%", "model": "m"}, "--replay: data.replay_share is 0.0"),
        ({"model": "m", "method": "prompt", "layers": "last:4"}, "--layers: method.layers is no key of method prompt"),
    ],
)
def test_what_contradicts_itself_is_named(options: dict[str, Any], said: str, asked: Asked) -> None:
    with pytest.raises(RecipeError) as caught:
        asked(**options)
    assert said in str(caught.value)
