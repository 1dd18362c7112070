"""What is wrong with a recipe, in the user's words: one line each, the first is raised, the others are counted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    method = str(detail["loc"][1]) if key.startswith("method.") and key != "method.name" else None
    if detail["type"] == "extra_forbidden" and one is not None:  # a key of another method
        return Fault(one.line, f"{one.where}: {key} is no key of method {method}", keys.of_method(key))
    reason = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else None
    if one is None:
        one = _to_blame(key, str(reason), given)
    if reason is not None:
        return Fault(one.line, f"{one.where}: {key}: {reason}" if key else f"{one.where}: {reason}")
    if key == "method.name":
        return _no_method(one)
    index = next((part for part in detail["loc"] if isinstance(part, int)), None)
    place = key if index is None else f"{key}[{index}]"
    words = keys.allowed(key, method, of_items=index is not None)
    wants_text = detail["type"] == "string_type" or keys.takes_text(key, method)
    hint = _about_quotes(detail["input"], wants_text)
    return Fault(one.line, f"{one.where}: {place} is {shown(detail['input'])}, allowed: {words}", hint)


def _to_blame(section: str, reason: str, given: Mapping[str, Given]) -> Given:
    """Of the keys of a section that contradict each other, as the reason names them, the one that overrules."""
    words, start = set(re.findall(r"\w+", reason)), f"{section}." if section else ""
    below = {key: one for key, one in given.items() if key.startswith(start) and key != "method.name"}
    named = [one for key, one in below.items() if key.rpartition(".")[2] in words]
    return min(named, key=lambda one: ("flag", "--set", "recipe").index(one.origin))


def _no_method(one: Given) -> Fault:
    """A name that no method has."""
    *others, last = keys.method_names()
    near = keys.nearest_method(one.value)
    hint = f"did you mean '{near}'?" if near else None
    return Fault(
        one.line, f"{one.where}: method.name is {shown(one.value)}, allowed: {', '.join(others)} or {last}", hint
    )


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
