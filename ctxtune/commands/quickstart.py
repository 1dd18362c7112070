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


_PROMPT = "-prompt"
"""what the run that learns a prompt has behind the name of the other's folder"""


def quickstart(out: Path | None, tell: Tell) -> dict[str, Any]:
    """Pull the small model, adapt it to the bundled film reviews, learn a prompt for them, ask it behind 16 of them.

    Returns the facts of the run; `prompt` and `fewshot` among them are those of the others, on the same rows.

    Raises:
        CtxtuneError: the model cannot be fetched, or the run fails.
    """
    place = out or free_folder()
    resolved = load("quickstart", {"out": str(place)})
    pull(resolved.recipe.model, say=tell.note)
    facts = adapt(resolved, False, tell)
    tell.note("prompt: the model as it came, with 8 vectors that are learned behind each review")
    prompt = adapt(load("suffix", {"out": f"{place}{_PROMPT}"}), False, tell)
    tell.note("few-shot: the model as it came, asked behind 16 of the training rows")
    return {**facts, "prompt": prompt, "fewshot": fewshot(load("fewshot", {}), tell.note)}


def free_folder() -> Path:
    """The first of runs/quickstart, runs/quickstart-2, ... that nobody uses."""
    for number in range(1, 1000):
        place = Path("runs") / ("quickstart" if number == 1 else f"quickstart-{number}")
        if not place.exists() and not Path(f"{place}{_PROMPT}").exists():
            return place
    raise RecipeError("runs/ holds 999 quickstarts", "remove some, or name a folder with --out")
