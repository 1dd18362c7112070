"""What every section of a recipe promises, those to come included."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from ctxtune.recipe import keys
from ctxtune.recipe.schema import Recipe, Train
from ctxtune.recipe.section import Section


class Open(Section):
    """A section whose author forgot the bounds."""

    number: float


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, "1", True, None])
def test_no_section_takes_what_is_not_a_number(number):
    with pytest.raises(ValidationError):
        Open(number=number)


def test_a_recipe_cannot_be_changed():
    recipe = Recipe(model="m", method={"name": "freeze"})
    with pytest.raises(ValidationError, match="frozen"):
        recipe.model = "other"
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train.seed = 1


def test_a_section_refuses_unknown_keys():
    with pytest.raises(ValidationError, match="Extra inputs"):
        Train(epoch=1)


@pytest.mark.parametrize("method", keys.method_names())
def test_of_every_key_it_can_be_said_what_may_stand_there(method: str) -> None:
    """A value that is refused is answered with this."""
    for key, kinds in keys.owners().items():
        if "" in kinds or method in kinds:
            assert keys.allowed(key, method), key
