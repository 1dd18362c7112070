"""Where two adapters differ: what they say of themselves, what one of them lacks, and a row for each part that differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxtune.data.finite import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxtune.adapter.diff import Difference, Distance
    from ctxtune.commands.diff import ComparedAdapters


def facts(compared: ComparedAdapters) -> dict[str, Any]:
    """All of it as plain values."""
    found = compared.difference
    return {
        "one": str(compared.one),
        "other": str(compared.other),
        "container": found.container,
        "told": {key: list(pair) for key, pair in compared.told.items()},
        "only_one": found.only_one,
        "only_other": found.only_other,
        "other_shape": found.other_shape,
        "all": plain(_numbers(found.all, found.compared)),
        "parts": [{"name": part.name, **plain(_numbers(part, found.compared))} for part in found.parts],
    }


def _numbers(part: Distance, compared: bool) -> dict[str, Any]:
    return {
        "jaccard": part.overlap.jaccard if part.overlap else None,
        "cosine": part.cosine if compared else None,
        "relative": part.relative if compared else None,
        "largest": part.largest,
    }


def tables(compared: ComparedAdapters) -> Iterator[Any]:
    """What is told, then the parts that differ; narrow where names are."""
    from rich.markup import escape

    from ctxtune.cli import console

    found = compared.difference
    rows = [[escape(key), *(escape(_word(value)) for value in pair)] for key, pair in compared.told.items()]
    rows += [[title, *counts] for title, *counts in _counts(found)]
    yield f"one: {escape(str(compared.one))}\nother: {escape(str(compared.other))}"
    if rows:
        yield console.grid("", ["", "one", "other"], rows)
    differing = [part for part in found.parts if part.apart or (part.overlap and part.overlap.jaccard < 1)]
    same = len(found.parts) - len(differing)
    shown = [found.all, *differing] if found.compared and differing else differing
    columns = [name for name in _COLUMNS if any(_numbers(part, found.compared)[name] is not None for part in shown)]
    cells = [[escape(part.name), *(_cell(_numbers(part, found.compared)[name]) for name in columns)] for part in shown]
    title = f"{same:,} of {len(found.parts):,} parts are the same" + (", the others:" if cells else "")
    yield console.grid(title, ["part", *columns], cells) if cells else title


_COLUMNS = ("jaccard", "cosine", "relative", "largest")


def _counts(found: Difference) -> Iterator[tuple[str, str, str]]:
    """What stands on one side alone: how much of it, and what it is called first."""
    for title, one, other in (
        ("only here", found.only_one, found.only_other),
        ("in other shapes", found.other_shape, found.other_shape),
    ):
        if one or other:
            yield title, _first(one), _first(other)


def _first(names: list[str]) -> str:
    return f"{len(names):,}: {names[0]}{', ...' * (len(names) > 1)}" if names else "0"


def _word(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
