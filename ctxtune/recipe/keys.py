"""The keys of a recipe, read off its schema: which there are, what each allows, and which one a misspelt key meant."""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

from ctxtune.recipe.schema import Recipe
from ctxtune.recipe.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

# Inputs that are files: relative to the recipe that names them. `model` and those under `forget` may also be other things.
PATHS = (
    "model", "data.train", "data.eval", "data.replay", "forget.probe", "forget.text", "method.adapters", "method.masks",
    "method.tokenizer",
)  # fmt: skip


def leaves(section: Section, below: str = "") -> Iterator[tuple[str, Any]]:
    """Each dotted key and its value, in the order of the schema."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from leaves(value, f"{below}{name}.")
        else:
            yield f"{below}{name}", value


@cache
def owners() -> dict[str, dict[str, type[Section]]]:
    """Every dotted key that takes a value, and the classes that have it as a field, by method; '' where it is of none."""
    found: dict[str, dict[str, type[Section]]] = {}
    for key, kind in _walk(Recipe, ""):
        method = get_args(kind.model_fields["name"].annotation)[0] if key.startswith("method.") else ""
        found.setdefault(key, {})[method] = kind
    return found


@cache
def method_names() -> tuple[str, ...]:
    """The names of the methods."""
    return tuple(sorted(owners()["method.name"]))


def nearest_method(word: object) -> str | None:
    """The method that is meant by a word, None where it is like none."""
    return next(iter(difflib.get_close_matches(str(word), method_names(), n=1)), None)


@cache
def sections() -> frozenset[str]:
    """The keys that other keys stand under; the recipe itself is ''."""
    return frozenset({"", *(key.rpartition(".")[0] for key in owners())})


def _walk(owner: type[Section], below: str) -> Iterator[tuple[str, type[Section]]]:
    for name, field in owner.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_section(kind)]
        for kind in inner:
            yield from _walk(kind, f"{below}{name}.")
        if not inner:
            yield f"{below}{name}", owner


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def under(section: str) -> list[str]:
    """The last parts of the keys directly under a section ('' is the top)."""
    below = f"{section}." if section else ""
    names = [key[len(below) :].partition(".")[0] for key in owners() if key.startswith(below)]
    return list(dict.fromkeys(names))


def _schema(key: str, method: str | None) -> dict[str, Any]:
    """The JSON Schema of one key, as the method has it; as some method has it where this one does not."""
    kinds = owners()[key]
    kind = kinds.get(method or "") or next(iter(kinds.values()))
    found: dict[str, Any] = _properties(kind)[key.rpartition(".")[2]]
    return found


def _kinds(key: str, method: str | None) -> list[dict[str, Any]]:
    """The JSON Schemas of which a value must fit one."""
    schema = _schema(key, method)
    found: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return found


@cache
def _properties(section: type[Section]) -> dict[str, Any]:
    """The JSON Schemas of the keys of a section; to make them takes pydantic some 30 ms."""
    found: dict[str, Any] = section.model_json_schema()["properties"]
    return found


def of_method(key: str) -> str:
    """Which methods a key under `method` belongs to, in words."""
    names = sorted(owners()[key])
    said = f"methods {' and '.join(names)}" if len(names) > 1 else f"method {names[0]}"
    commands = " or ".join(f"`ctxtune {name}`" for name in names)
    return f"it is one of {said}: {commands}, or 'method: {{name: {names[0]}}}'"


def takes_text(key: str, method: str | None) -> bool:
    """Whether any text at all may be the value, so that an option's value needs no YAML."""
    return any(
        kind.get("type") == "string" and not {"enum", "const", "pattern"} & set(kind) for kind in _kinds(key, method)
    )


def takes_template(key: str, method: str | None) -> bool:
    """Whether a text with `{{` in it may stand there beside other kinds of values."""
    return any("pattern" in kind for kind in _kinds(key, method))


def takes_list(key: str, method: str | None) -> bool:
    """Whether a list may stand there."""
    return any(kind.get("type") == "array" for kind in _kinds(key, method))


def takes_null(key: str, method: str | None) -> bool:
    """Whether null is a value of the key."""
    return any(kind.get("type") == "null" for kind in _kinds(key, method))


def allowed(key: str, method: str | None, of_items: bool = False) -> str:
    """What may stand there, in words: `auto, or a number above 0 and up to 100`."""
    kinds = _kinds(key, method)
    if of_items:
        return _in_words(kinds[0].get("items") or kinds[0]["additionalProperties"])
    words = [_in_words(kind) for kind in kinds]
    return ", or ".join(words)


def _in_words(kind: dict[str, Any]) -> str:
    if "const" in kind:
        return str(kind["const"])
    if "enum" in kind:
        *first, last = map(str, kind["enum"])
        return f"{', '.join(first)} or {last}"
    match kind["type"]:
        case "null":
            return "null"
        case "string" if "pattern" in kind:
            return "a template such as {{ field }}"
        case "boolean":
            return "true or false"
        case "string":
            return "a text, not an empty one" if kind.get("minLength") else "a text"
        case "array":
            return _list_in_words(kind)
        case "object":
            return "a mapping of texts to texts"
        case "integer":
            return f"a whole number{_bounds(kind)}"
        case _:
            return f"a number{_bounds(kind)}"


def _list_in_words(kind: dict[str, Any]) -> str:
    if "anyOf" in kind["items"]:
        return "a list of them, each alone or as {path: ..., weight: ...}"
    if kind["items"]["type"] == "number":
        return f"a list of at least {kind['minItems']} numbers{_bounds(kind['items'])}"
    return f"a list of at least {kind['minItems']} different texts" if "minItems" in kind else "a list of texts"


def _bounds(kind: dict[str, Any]) -> str:
    low = f" above {kind['exclusiveMinimum']:g}" if "exclusiveMinimum" in kind else f" from {kind['minimum']}"
    return f"{low} to {kind['maximum']}"


def suggestion(unknown: str) -> str:
    """What to write in place of an unknown dotted key: the same name elsewhere, else the nearest, else all keys."""
    section, _, name = unknown.rpartition(".")
    if unknown in owners():  # 'train.lr' as one word
        return f"write '{name}' under '{section}:', on a line of its own"
    same = [key for key in owners() if key.rpartition(".")[2] == name]
    if same:
        return " or ".join(_place(key) for key in same)
    near = difflib.get_close_matches(name, under(section), n=1) if section in sections() else []
    if near:
        return f"did you mean '{section}.{near[0]}'?" if section else f"did you mean '{near[0]}'?"
    names = {key.rpartition(".")[2]: key for key in (*sections(), *owners()) if key}
    for elsewhere in difflib.get_close_matches(name, names, n=1) if len(name) > 1 else ():  # one sign is like any two
        return f"did you mean '{names[elsewhere]}'?"
    if section not in sections():
        section = ""
    return f"keys {f'under {section!r}' if section else 'of a recipe'}: {', '.join(under(section))}"


def _place(key: str) -> str:
    section, _, name = key.rpartition(".")
    return f"'{name}' belongs under '{section}'" if section else f"'{name}' belongs to the top level"
