"""Results of a benchmark as lines of JSON, one a run: what is there already is not computed again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def lines_of(path: Path) -> list[dict[str, Any]]:
    """All of a file; none where it is not there yet."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def kept(path: Path, key: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The line that begins with `key`; computed and added to the file if it is not there."""
    for line in lines_of(path):
        if key.items() <= line.items():
            return line
    line = {**key, **compute()}
    with path.open("a", encoding="utf-8") as out:
        print(json.dumps(line), file=out, flush=True)
    return line
