"""What is wrong with a recipe, in the user's words: one line each, the first is raised, the others are counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.errors import RecipeError
from ctxtune.recipe import keys
from ctxtune.recipe.plural import counted
from ctxtune.recipe.read import FLOAT, at, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from ctxtune.recipe.load import Given


@dataclass(frozen=True)
class Fault:
    """One mistake; `line` is 0 for an option, infinite for what is missing: a misspelt key may be why it is."""

    line: float
    message: str
    hint: str | None = None


class Mistakes(RecipeError):
    """Several at once: it reads as the first of them; `lines` are all, each with what to do about it."""

    def __init__(self, faults: list[Fault]) -> None:
        first = faults[0]
        super().__init__(f"{first.message} (and {counted(len(faults) - 1, 'more mistake')})", first.hint)
        self.lines = [f"{one.message}; {one.hint}" if one.hint else one.message for one in faults]


def raise_first(faults: list[Fault]) -> None:
    """Raise the mistake that stands first, if there is any."""
    ordered = sorted(faults, key=lambda fault: fault.line)
    if len(ordered) > 1:
        raise Mistakes(ordered)
    for only in ordered:
        raise RecipeError(only.message, only.hint)


def explain(error: ValidationError, given: Mapping[str, Given], source: str) -> Iterator[Fault]:
    """Each key that pydantic refused, once, however many members of a union refused it."""
    seen: set[str] = set()
    for detail in error.errors(include_url=False):
        key = _key(detail["loc"])
        key = "method.name" if detail["type"].startswith("union_tag") else key
        if key not in seen:
            seen.add(key)
            yield _fault(key, detail, given, source)


def _key(loc: tuple[int | str, ...]) -> str:
    """The dotted key of a place; names of union members, which pydantic puts in between, are left out."""
    key = ""
    for part in loc:
        longer = f"{key}.{part}" if key else str(part)
        if longer in keys.owners() or longer in keys.sections():
            key = longer
    return key


def _fault(key: str, detail: ErrorDetails, given: Mapping[str, Given], source: str) -> Fault:
    one = given.get(key)
    if detail["type"] == "missing" or (detail["type"] == "union_tag_not_found" and one is None):
        return _missing(key, given, source)
    if detail["type"] == "extra_forbidden" and one is not None:  # a key of another method
        return Fault(one.line, f"{one.where}: {key} is no key of method {detail['loc'][1]}", keys.of_method(key))
    reason = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else None
    if one is None:  # two keys of a section contradict each other: blame the one that overrules
        named = [given[name] for name in given if name.startswith(f"{key}.") and name[len(key) + 1 :] in str(reason)]
        one = min(named, key=lambda this: ("flag", "--set", "recipe").index(this.origin))
    if reason is not None:
        return Fault(one.line, f"{one.where}: {key}: {reason}")
    index = next((part for part in detail["loc"] if isinstance(part, int)), None)
    place = key if index is None else f"{key}[{index}]"
    value: Any = one.value if key == "method.name" else detail["input"]
    words = keys.allowed(key, of_items=index is not None)
    hint = _about_quotes(value, wants_text=detail["type"] == "string_type" or keys.takes_text(key))
    return Fault(one.line, f"{one.where}: {place} is {shown(value)}, allowed: {words}", hint)


def _about_quotes(value: object, wants_text: bool) -> str | None:
    if wants_text and isinstance(value, int | float):
        return f'in quotes it is a text: "{shown(value)}"'
    if not wants_text and isinstance(value, str) and FLOAT.fullmatch(value):
        return f"without quotes it is a number: {shown(value)[1:-1]}"
    return None


def _missing(key: str, given: Mapping[str, Given], source: str) -> Fault:
    option = key.rpartition(".")[2].replace("_", "-")
    if key == "method.name":
        hint = f"a recipe names its method: 'method: {{name: freeze}}', or {', '.join(keys.method_names())}"
    else:
        hint = f"write '{option}: ...' in a recipe, or give --{option}"
    in_file = any(one.origin == "recipe" for one in given.values())
    return Fault(math.inf, f"{at(source, None)}: '{key}' is missing" if in_file else f"'{key}' is missing", hint)
