"""YAML text to plain data, strictly.

A recipe is data, so this is YAML's core without its traps: one document, no tags, no anchors and aliases (a few lines
of them can mean gigabytes), no key twice, and scalars as YAML 1.2 reads them. `no`, `off`, `12:30` and `2024-01-01` are
texts, `1e-3` is a number, whole numbers are plain decimals, and only `true` and `false` are booleans.

The data is built from the parser's events with a stack of our own: each key's line is known, depth costs no recursion.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from ctxtune.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 1_000_000
MOST_DEPTH = 32
MOST_DIGITS = 40

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
LEADING_ZEROS = re.compile(r"[-+]?0[0-9]+")
NOT_TEXT = re.compile("[\\0\ud800-\udfff]")
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}

# libyaml is ten times as fast as the same parser in Python; a build without it has only the latter.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Document:
    """A mapping and, for each dotted path in it (`data.choices.0`), the line on which it stands, from 1."""

    data: dict[str, Any]
    lines: dict[str, int]


def read_recipe(path: Path, source: str) -> Document:
    """The mapping in a file; `source` is how messages name it."""
    value, lines = parse(read_text(path, source), source)
    if value is None:
        raise RecipeError(
            f"{source} is empty", "`ctxtune recipe new` writes one to start from: freeze, prompt, fewshot ..."
        )
    if not isinstance(value, dict):
        raise RecipeError(f"{source} line 1: a recipe is a mapping of keys to values", "write it as 'key: value'")
    return Document(value, lines)


def read_text(path: Path, source: str) -> str:
    """A file of bounded size, as UTF-8 text."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{source} cannot be read: {reason}") from error
    if len(raw) > MOST_BYTES:
        raise RecipeError(f"{source} is larger than {MOST_BYTES:,} bytes", "is it a recipe, or the data?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{source} line {line}: not UTF-8 text", "save the file as UTF-8") from error


def parse(text: str, source: str) -> tuple[Any, dict[str, int]]:
    """One YAML value (a document, or the value of an option) and the line of each path in it."""
    builder = _Builder(source)
    try:
        for event in yaml.parse(text, Loader):
            builder.take(event)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, source) from error
    except UnicodeEncodeError as error:  # half a surrogate pair, from a terminal that does not speak UTF-8
        raise RecipeError(f"{source}: not valid Unicode text") from error
    return builder.value, builder.lines


@dataclass
class _Open:
    """A mapping or a list that has begun and not ended."""

    value: Any
    path: str
    key: str | None = None  # of a mapping, when its value is still to come


@dataclass
class _Builder:
    source: str
    value: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    stack: list[_Open] = field(default_factory=list)
    documents: int = 0

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self.error(line, "a second document begins", "a recipe is one document: remove the '---'")
        elif isinstance(event, yaml.AliasEvent):
            raise self.error(line, f"alias '*{event.anchor}'", "write the value out")
        elif isinstance(event, yaml.NodeEvent):
            self.start(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.stack.pop()

    def start(self, event: Any, line: int) -> None:
        """A scalar, or the beginning of a collection: put it where it belongs."""
        if event.anchor is not None:
            raise self.error(line, f"anchor '&{event.anchor}'", "write the value out wherever it is wanted")
        if event.tag is not None:
            raise self.error(line, f"tag {event.tag!r}", "a recipe is plain data: remove the tag")
        inside = self.stack[-1] if self.stack else None
        if inside is not None and isinstance(inside.value, dict) and inside.key is None:
            self.open_key(inside, event, line)
            return
        path = self.place_path(inside, line)
        if isinstance(event, yaml.ScalarEvent):
            self.attach(inside, self.scalar(event, line))
            return
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.attach(inside, value)
        self.stack.append(_Open(value, path))
        if len(self.stack) > MOST_DEPTH:
            raise self.error(line, f"nested deeper than {MOST_DEPTH} levels")

    def open_key(self, inside: _Open, event: Any, line: int) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            raise self.error(line, "a list or a mapping stands where a key should", "put texts with '{' in quotes")
        key = self.text(event, line)
        path = f"{inside.path}.{key}" if inside.path else key
        if key in inside.value:
            raise self.error(line, f"key {shown(path)} stands here again, first on line {self.lines[path]}")
        inside.key = key
        self.lines[path] = line

    def place_path(self, inside: _Open | None, line: int) -> str:
        if inside is None:
            return ""
        if inside.key is not None:
            return f"{inside.path}.{inside.key}" if inside.path else inside.key
        path = f"{inside.path}.{len(inside.value)}" if inside.path else str(len(inside.value))
        self.lines[path] = line
        return path

    def attach(self, inside: _Open | None, value: Any) -> None:
        if inside is None:
            self.value = value
        elif inside.key is not None:
            inside.value[inside.key] = value
            inside.key = None
        else:
            inside.value.append(value)

    def text(self, event: Any, line: int) -> str:
        text: str = event.value
        if NOT_TEXT.search(text):
            raise self.error(line, f"{shown(text)} has a NUL character or half a surrogate pair in it")
        return text

    def scalar(self, event: Any, line: int) -> Any:
        text = self.text(event, line)
        if not event.implicit[0]:  # quoted, or a block
            return text
        if text in WORDS:
            return WORDS[text]
        if INTEGER.fullmatch(text):
            if len(text) > MOST_DIGITS:
                raise self.error(line, f"a number of {len(text)} digits", "put texts in quotes")
            return int(text)
        if FLOAT.fullmatch(text) and not LEADING_ZEROS.fullmatch(text):
            return float(text)
        if INFINITE.fullmatch(text):
            return float(text.replace(".", ""))
        return text

    def error(self, line: int, message: str, hint: str | None = None) -> RecipeError:
        return RecipeError(f"{at(self.source, line)}: {message}", hint)


def at(source: str, line: int | None) -> str:
    """`recipe.yaml line 7`; an option has no lines."""
    return source if line is None or source.startswith("--") else f"{source} line {line}"


def shown(value: object, most: int = 60) -> str:
    """A value inside a message: on one line, in quotes if it is a text, cut when it is long."""
    text = value if isinstance(value, str) else _spelt(value)
    if len(text) > most:
        text = f"{text[: most - 3]}..."
    return repr(text) if isinstance(value, str) else printable(text)


def printable(text: str) -> str:
    """The same on one line, and unable to steer a terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _spelt(value: object) -> str:
    """As a recipe spells it: null, true, [1, 2]."""
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=repr)


def _syntax_error(error: yaml.YAMLError, text: str, source: str) -> RecipeError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark is not None else None
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    position = getattr(error, "position", None)
    if line is None and isinstance(position, int):
        line = text.count("\n", 0, position) + 1
    return RecipeError(f"{at(source, line)}: not valid YAML: {' '.join(str(problem).split())}", _cure(str(problem)))


def _cure(problem: str) -> str:
    if "\\t" in problem or "tab" in problem:
        return "indent with spaces"
    return "put texts with ':', '#', '{' or '%' in quotes; indent with spaces"
