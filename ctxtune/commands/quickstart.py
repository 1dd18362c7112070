"""Quickstart: a real model, real data, one table of results, and nothing to prepare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.commands.adapt import adapt
from ctxtune.commands.fewshot import fewshot
from ctxtune.commands.pull import pull
from ctxtune.errors import RecipeError
from ctxtune.recipe.load import load

if TYPE_CHECKING:
    from ctxtune.commands.adapt import Tell


_BESIDE = {"mask": "columns", "prompt": "suffix"}
"""what else is run -> its recipe; its folder is the first one's with this behind its name"""
_SAID = {
    "mask": "mask: the model as it came, with one weight in a hundred of its last four layers that learns",
    "prompt": "prompt: the model as it came, with 8 vectors that are learned behind each review",
}


def quickstart(out: Path | None, tell: Tell) -> dict[str, Any]:
    """Pull the small model, adapt it to the bundled film reviews by layers, by a few numbers and by a prompt, ask it behind 16.

    Returns the facts of the first run; `mask`, `prompt` and `fewshot` among them are those of the others, on the same rows.

    Raises:
        CtxtuneError: the model cannot be fetched, or the run fails.
    """
    place = out or free_folder()
    resolved = load("quickstart", {"out": str(place)})
    pull(resolved.recipe.model, say=tell.note)
    facts = adapt(resolved, False, tell)
    beside = {}
    for name, recipe in _BESIDE.items():
        tell.note(_SAID[name])
        beside[name] = adapt(load(recipe, {"out": f"{place}-{name}"}), False, tell)
    tell.note("few-shot: the model as it came, asked behind 16 of the training rows")
    return {**facts, **beside, "fewshot": fewshot(load("fewshot", {}), tell.note)}


def free_folder() -> Path:
    """The first of runs/quickstart, runs/quickstart-2, ... that nobody uses."""
    for number in range(1, 1000):
        place = Path("runs") / ("quickstart" if number == 1 else f"quickstart-{number}")
        if not any(Path(f"{place}{more}").exists() for more in ("", *(f"-{name}" for name in _BESIDE))):
            return place
    raise RecipeError("runs/ holds 999 quickstarts", "remove some, or name a folder with --out")
