"""What a search would read, before it starts: the first round is counted, the later ones go by its mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.commands.clock import Clock
from ctxtune.commands.dry_fewshot import bare, chosen_cost
from ctxtune.commands.dry_run import weights_in_memory
from ctxtune.commands.run_folder import check_place
from ctxtune.commands.search import begun, check
from ctxtune.data.branch import shared
from ctxtune.methods.search import questions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.commands.search import Start
    from ctxtune.recipe.load import Resolved


def dry_search(resolved: Resolved, count: int, words: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Check everything that can be checked without the weights; returns counts.

    Raises:
        CtxtuneError: whatever the search itself would meet before it asks the model.
    """
    recipe = resolved.recipe
    check(recipe, count)
    if recipe.out is not None:
        check_place(Path(recipe.out), resume=None)
    start = begun(resolved, count, words, say, Clock(), load=bare)
    fronts, behind, whole = _first_round(start)
    asked = questions(start.rounds)
    beside = 2 * (len(start.confirm) + len(start.eval))
    share = (sum(asked) + beside) / asked[0]
    base = start.tries.run.base
    return {
        "model": recipe.model,
        "shots": start.tries.settings.shots,
        "candidates": len(start.candidates),
        "rounds": [{"candidates": candidates, "rows": rows} for candidates, rows in start.rounds],
        "tried_rows": start.rounds[-1][1],
        "confirm_rows": len(start.confirm),
        "eval_rows": len(start.eval),
        "asked": sum(asked) + beside,
        "read": fronts + round(behind * share),
        "whole": round(whole * share),
        "weight_bytes": weights_in_memory(recipe, base.model, base.anatomy, base.folder, {}),
    }


def _first_round(start: Start) -> tuple[int, int, int]:
    """The tokens of all fronts, each once and behind what it shares with another; those behind them; and those of all texts."""
    tries = start.tries
    before: tuple[int, ...] = ()
    fronts = behind = whole = 0
    for one in sorted(map(tries.asked, start.candidates), key=lambda one: one.front):
        asked, _ = one.run.encoded([(one.shots, tries.rows[: start.rounds[0][1]])], ())
        if not asked.requests:
            continue
        front, more, every = chosen_cost(asked, one.run)
        fronts += len(front) - len(shared([before, front]))
        behind, whole, before = behind + more, whole + every, front or before
    return fronts, behind, whole
