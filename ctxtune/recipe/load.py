"""A recipe file, `--set` and flags become one checked `Recipe`, which knows where each of its values came from.

Precedence: flag > `--set` > recipe > default. Every mistake is one line that names file and line, or the option.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ctxtune.errors import RecipeError
from ctxtune.recipe import gallery, keys
from ctxtune.recipe.faults import Fault, explain, raise_first
from ctxtune.recipe.read import NOT_TEXT, Document, at, parse, printable, read_recipe, shown
from ctxtune.recipe.schema import SCRATCH, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SPELT = {  # options that are not spelled like their keys
    "method.replay": "--as", "method.adapters": "--init", "method.masks": "--select", "method.combine": "--select",
    "forget.budget": "--forget-budget", "data.replay_share": "--replay",
}  # fmt: skip
ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".gz", ".zst")
NOT_PATHS = {
    "data.train": ("-",), "data.eval": ("-",), "forget.probe": ("builtin", "none"), "forget.text": ("builtin",),
    "model": (SCRATCH,),
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """A value that somebody wrote: where it stands, as messages name it, and what relative paths in it start from."""

    value: Any
    origin: str  # flag, --set or recipe
    where: str
    folder: Path
    line: int = 0


@dataclass(frozen=True)
class Resolved:
    """A recipe with nothing left open: `origin` of every key is flag, --set, recipe or default."""

    recipe: Recipe
    origin: dict[str, str]
    folder: Path
    source: str


def load(source: str | None, flags: Mapping[str, object], sets: Sequence[str] = ()) -> Resolved:
    """Read a recipe (a path, the name of a bundled one, or none), lay options over it, check all of it."""
    here = Path.cwd()
    path = locate(source) if source is not None else None
    folder = Path(os.path.realpath(path.parent)) if path is not None else here
    name = printable(source) if source is not None else "the command line"
    document = read_recipe(path, name) if path is not None else Document({}, {})
    faults: list[Fault] = []
    written = _from_recipe(document, name, folder, faults)
    method = _method(written, sets, flags)
    words = _from_sets(sets, method, here, faults)
    options = _from_flags(flags, method, here, faults)
    _same_method(written, words, options, name)
    given = {key: _absolute(key, one) for key, one in (written | words | options).items()}
    recipe = _validate(given, name, faults)
    origin = {key: given[key].origin if key in given else "default" for key, _ in keys.leaves(recipe)}
    return Resolved(recipe, origin, folder, name)


def locate(source: str) -> Path:
    """The file of a recipe: an existing file, else a bundled one of that name."""
    if source.lower().endswith(ROWS):
        told = f"rows are given with --train {printable(source)}, those to score with --eval"
        raise RecipeError(f"{shown(source)} is named like rows, not like a recipe", told)
    if os.path.isfile(source):
        return Path(source)
    bundled = gallery.find(source)
    if bundled is not None:
        return bundled
    if os.path.isdir(source):
        inside = os.path.join(source, "recipe.yaml")
        hint = f"did you mean {inside}?" if os.path.isfile(inside) else None
        raise RecipeError(f"{shown(source)} is a folder, not a recipe", hint)
    if "\0" not in source and os.path.lexists(source):
        raise RecipeError(f"{shown(source)} is not a regular file, or a link that leads nowhere")
    near = difflib.get_close_matches(source, gallery.names(), n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    bundled_names = ", ".join(gallery.names())
    raise RecipeError(f"no recipe {shown(source)}: no such file", f"{meant}bundled recipes: {bundled_names}")


def _from_recipe(document: Document, source: str, folder: Path, faults: list[Fault]) -> dict[str, Given]:
    """The values of a recipe under their dotted keys. An empty section (all of it commented out) is none at all."""
    found: dict[str, Given] = {}
    waiting = [("", document.data)]
    while waiting:
        section, mapping = waiting.pop()
        for name, value in mapping.items():
            key = f"{section}.{name}" if section else name
            line = document.lines[key]
            where = at(source, line)
            if name and "." not in name and key in keys.owners():
                found[key] = Given(value, "recipe", where, folder, line)
            elif not name or "." in name or key not in keys.sections():
                faults.append(Fault(line, f"{where}: unknown key {shown(key)}", keys.suggestion(key)))
            elif isinstance(value, dict):
                waiting.append((key, value))
            elif value is not None:
                named = keys.nearest_method(value) if key == "method" else None
                below = f"the keys under it: {', '.join(keys.under(key))}"
                hint = f"write 'method: {{name: {named}}}'" if named else below
                faults.append(Fault(line, f"{where}: {key} is {shown(value)}, but other keys belong under it", hint))
    return found


def _method(written: Mapping[str, Given], sets: Iterable[str], flags: Mapping[str, object]) -> str:
    """The name of the method, by which values of its keys are read; '' where nobody says it."""
    found = [one.value for one in (written.get("method.name"),) if one is not None]
    found += [value.strip() for key, _, value in (text.partition("=") for text in sets) if key.strip() == "method.name"]
    found += [value for value in (flags.get("method.name"),) if value is not None]
    return str(found[-1]) if found else ""


def _from_sets(sets: Iterable[str], method: str, folder: Path, faults: list[Fault]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise RecipeError(f"--set {shown(text)} is not KEY=VALUE", "write --set train.lr=1e-3")
        if key in keys.owners():
            found[key] = Given(_value_of_set(key, method, value), "--set", "--set", folder)
        elif key in keys.sections():
            hint = f"set one of the keys under it: {', '.join(f'{key}.{name}' for name in keys.under(key))}"
            faults.append(Fault(0, f"--set: '{key}' is not a value", hint))
        else:
            faults.append(Fault(0, f"--set: unknown key {shown(key)}", keys.suggestion(key)))
    return found


def _value_of_set(key: str, method: str, text: str) -> Any:
    """YAML, except that a key that takes any text takes it as it is: `{{ text }}` needs no second pair of quotes."""
    bare = text.strip()
    marks = ("'", '"', "[") if keys.takes_list(key, method) else ("'", '"')
    if _as_it_is(key, method, bare) and not bare.startswith(marks):
        if bare in ("", "null") and keys.takes_null(key, method):
            return None
        _refuse_non_text(text, f"--set {key}")
        return text
    return parse(text, f"--set {key}")[0]


def _as_it_is(key: str, method: str, text: str) -> bool:
    """Whether an option's value is a text already: `{{ text }}` would be broken YAML."""
    return keys.takes_text(key, method) or (keys.takes_template(key, method) and "{{" in text)


def _from_flags(flags: Mapping[str, object], method: str, folder: Path, faults: list[Fault]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for key, value in flags.items():
        if value is None:
            continue
        where = SPELT.get(key) or f"--{key.rpartition('.')[2].replace('_', '-')}"
        if key not in keys.owners():
            faults.append(Fault(0, f"{where}: unknown key {shown(key)}", keys.suggestion(key)))
            continue
        found[key] = Given(_value_of_flag(key, method, value, where), "flag", where, folder)
    return found


def _value_of_flag(key: str, method: str, value: object, where: str) -> object:
    """A text is taken as it is, unless the key wants something else: `--lr 1e-3` and `--lr auto` come as texts."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, tuple):
        value = list(value)
    for text in value if isinstance(value, list) else [value]:
        _refuse_non_text(text, where)
    return parse(value, where)[0] if isinstance(value, str) and not _as_it_is(key, method, value) else value


def _refuse_non_text(value: object, where: str) -> None:
    if isinstance(value, str) and NOT_TEXT.search(value):
        raise RecipeError(f"{where}: {shown(value)} is not valid Unicode text", "is the terminal set to UTF-8?")


def _same_method(written: dict[str, Given], words: dict[str, Given], options: dict[str, Given], source: str) -> None:
    """A command, a `--set` and a recipe that name two methods contradict each other; none is taken."""
    recipe, word, command = (given.get("method.name") for given in (written, words, options))
    if command is not None and word is not None and command.value != word.value:
        raise RecipeError(
            f"--set: method.name is {shown(word.value)}, but the command says {shown(command.value)}",
            f"leave it out, or give `ctxtune {word.value}`" if word.value in keys.method_names() else "leave it out",
        )
    said = command or word
    if recipe is not None and said is not None and recipe.value != said.value:
        raise RecipeError(
            f"{recipe.where}: method.name is {shown(recipe.value)}, "
            f"but {'the command' if command else said.where} says {shown(said.value)}",
            f"`ctxtune run {source}` does what the recipe says",
        )


def _absolute(key: str, given: Given) -> Given:
    """A path no longer depends on where one stands; `-`, `builtin`, names of a hub or of the catalogue are none."""
    value = given.value
    if key in keys.PATHS and isinstance(value, list):
        return replace(given, value=[_absolute_part(key, part, given) for part in value])
    if key not in keys.PATHS or not isinstance(value, str) or not value or value in NOT_PATHS.get(key, ()):
        return given
    if key.startswith("data.") and value.startswith("hub:"):
        return given
    path = os.path.join(given.folder, value)
    if key == "model" and not _is_model_path(value, path):
        return given
    parent, name = os.path.split(path)
    if name in ("", ".", ".."):
        return replace(given, value=os.path.realpath(path))
    return replace(given, value=os.path.join(os.path.realpath(parent), name))  # the name of a link is kept


def _absolute_part(key: str, part: object, given: Given) -> object:
    """One of several inputs: a path, or a mapping that holds one."""
    if isinstance(part, dict):
        return {name: _absolute_part(key, inner, given) if name == "path" else inner for name, inner in part.items()}
    return _absolute(key, replace(given, value=part)).value if isinstance(part, str) else part


def _is_model_path(value: str, path: str) -> bool:
    explicit = value.startswith(("/", "./", "../")) or value in (".", "..") or value.lower().endswith(".gguf")
    return explicit or os.path.isdir(path)


def _validate(given: dict[str, Given], source: str, faults: list[Fault]) -> Recipe:
    tree: dict[str, Any] = {"method": {}}
    for key, one in given.items():
        *path, name = key.split(".")
        inside = tree
        for part in path:
            inside = inside.setdefault(part, {})
        inside[name] = one.value
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        faults.extend(explain(error, given, source))
    raise_first(faults)
    return recipe
