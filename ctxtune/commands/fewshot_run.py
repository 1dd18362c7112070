"""A few-shot run that leaves a folder: the recipe, what every row gave, the adapter where there is one, and the result."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.folder import require_free
from ctxtune.backend.ranks import ALONE
from ctxtune.commands.fewshot import fewshot
from ctxtune.commands.resume import taken_up
from ctxtune.commands.run_folder import open_shared
from ctxtune.commands.save_shots import unsaved
from ctxtune.recipe.schema import Fewshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.backend.ranks import Ranks
    from ctxtune.recipe.load import Resolved


def fewshot_run(
    resolved: Resolved,
    resume: bool,
    say: Callable[[str], None],
    scores: Path | None = None,
    save: Path | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Ask, as `fewshot` does, and keep all of it in the recipe's `out`; a run that is complete is not done again.

    What every row gave and the adapter lie elsewhere if that is asked for.

    Raises:
        CtxtuneError: as in `fewshot`; something else lies there.
    """
    asked = resolved
    with open_shared(Path(str(asked.recipe.out)), resume, ranks) as run:
        resolved, done = ranks.first(lambda: taken_up(run, asked, resume, say))
        if done is not None:
            return done
        settings = resolved.recipe.method
        assert isinstance(settings, Fewshot)
        why = unsaved(settings, resolved.recipe.data) if save is None else None
        if why is not None:
            say(f"no adapter: {why[0]}")
        elif save is None:
            save = run.adapter
            require_free(save)
            if ranks.leads:
                rmtree(save, ignore_errors=True)  # of a run that was killed before it had a result
        facts = fewshot(resolved, say, scores or run.scores, save, run.recipe, ranks)
        if "unsaved" not in facts and ranks.leads:  # else the run is not complete
            run.write_result(facts)
    return facts
