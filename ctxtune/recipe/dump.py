"""A resolved recipe as YAML that reads back to the same values, with the origin of each as a comment."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from ctxtune.recipe import keys
from ctxtune.recipe.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ctxtune.recipe.load import Resolved

# Texts that mean themselves in every YAML: no number, no date, no indicator at either end.
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
NOT_PLAIN = frozenset(["null", "true", "false", "yes", "no", "on", "off", "y", "n"])
# Characters that JSON leaves as they are and YAML does not take raw, or takes for the end of a line.
UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def dump(
    resolved: Resolved,
    relative_to: Path | None = None,
    inputs: dict[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> str:
    """The text of a recipe file.

    Paths are written relative to `relative_to`, the folder that the file will lie in. `inputs` are the hashes of what a
    run read. `overrides` are values that the run found, such as a learning rate.
    """
    found = dict(overrides or {})
    lines: list[str] = []
    section = ""
    for key, value in _values(resolved, inputs):
        above, _, name = key.rpartition(".")
        if above != section and above:
            lines.append(f"{above}:")
        section = above
        origin = "auto" if key in found else resolved.origin[key]
        text = spell(_portable(key, found.get(key, value), relative_to))
        comment = "" if key in ("ctxtune", "inputs") else f"  # {origin}"
        lines.append(f"{'  ' if above else ''}{name}: {text}{comment}")
    return "\n".join(lines) + "\n"


def _values(resolved: Resolved, inputs: dict[str, str] | None) -> Iterator[tuple[str, Any]]:
    for key, value in keys.leaves(resolved.recipe):
        if key != "inputs":
            yield key, value
        elif inputs or value:
            yield key, inputs or value


def _portable(key: str, value: Any, relative_to: Path | None) -> Any:
    """A path as seen from the recipe's own folder. The `./` keeps a file called `builtin` a file."""
    if isinstance(value, Section):
        value = value.model_dump()
    if isinstance(value, list):
        return [_portable(key, item, relative_to) for item in value]
    if isinstance(value, dict) and key in keys.PATHS:
        return {name: _portable(key, inner, relative_to) if name == "path" else inner for name, inner in value.items()}
    if key not in keys.PATHS or relative_to is None or not isinstance(value, str) or not os.path.isabs(value):
        return value
    try:
        path = os.path.relpath(value, os.path.realpath(relative_to))
    except ValueError:  # another drive
        return value
    return path if path.split(os.sep)[0] == ".." else os.path.join(".", path)


def spell(value: Any) -> str:
    """A value on one line of YAML."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return f"[{', '.join(spell(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(key)}: {spell(item)}' for key, item in value.items())}}}"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value)


def _text(text: str) -> str:
    return text if PLAIN.fullmatch(text) and text.lower() not in NOT_PLAIN else _quoted(text)


def _quoted(text: str) -> str:
    """JSON's quotes are YAML's, but for a few characters."""
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))
