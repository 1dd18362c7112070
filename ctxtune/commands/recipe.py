"""Recipes themselves: list, show, begin a new one, check one. No model is touched."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.backend.atomic import write_text
from ctxtune.commands.prepare import compile_templates
from ctxtune.errors import RecipeError
from ctxtune.recipe import gallery, keys
from ctxtune.recipe.dump import dump, spell
from ctxtune.recipe.load import load, locate
from ctxtune.recipe.read import read_recipe, read_text, shown

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ListedRecipe:
    """One bundled recipe."""

    name: str
    purpose: str


@dataclass(frozen=True)
class NewRecipe:
    """A recipe written for the user to edit."""

    path: Path
    template: str


@dataclass(frozen=True)
class CheckedRecipe:
    """A recipe without a mistake: its values, where each came from, and both as YAML."""

    source: str
    values: dict[str, Any]
    origin: dict[str, str]
    text: str


def list_recipes() -> list[ListedRecipe]:
    """The bundled recipes by name."""
    return [ListedRecipe(name, purpose) for name, purpose in gallery.list_templates()]


def show(name: str) -> str:
    """The text of a recipe, bundled or in a file, as it was written, right or wrong."""
    return read_text(locate(name), name)


def new(name: str, out: Path | None = None) -> NewRecipe:
    """Copy a bundled recipe, to be edited. Bundled data that it names keeps its place, so that the copy runs at once.

    Raises:
        RecipeError: there is no such recipe, or the file is there already.
    """
    template = gallery.find(name)
    if template is None:
        names = gallery.names()
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"bundled recipes: {', '.join(names)}"
        raise RecipeError(f"no bundled recipe {shown(name)}", hint)
    path = out if out is not None else Path(f"{name}.yaml")
    if os.path.lexists(path):
        raise RecipeError(f"{path} is there already, and nothing was written", "give another name with --out")
    write_text(path, _moved(template))
    return NewRecipe(path, name)


def _moved(template: Path) -> str:
    """The text of a bundled recipe with the paths of bundled data written out in full."""
    document = read_recipe(template, template.name)
    lines = read_text(template, template.name).splitlines(keepends=True)
    for name, value in document.data.get("data", {}).items():
        if f"data.{name}" in keys.PATHS and isinstance(value, str) and (template.parent / value).is_file():
            number = document.lines[f"data.{name}"] - 1
            lines[number] = lines[number].replace(value, spell(str(template.parent / value)))
    return "".join(lines)


def check(source: str, sets: Sequence[str] = ()) -> CheckedRecipe:
    """Read a recipe as a run would; its templates are compiled, its data and its model are not opened."""
    resolved = load(source, {}, sets)
    compile_templates(resolved.recipe.data)
    return CheckedRecipe(source, resolved.recipe.model_dump(), resolved.origin, dump(resolved))
