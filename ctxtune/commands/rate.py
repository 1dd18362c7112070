"""The learning rate of a run: given, found by an earlier part of it, or found now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.commands.run_folder import RunFolder
    from ctxtune.engine.loop import Objective
    from ctxtune.methods.registry import Method
    from ctxtune.recipe.schema import Recipe


def rate_of(
    recipe: Recipe,
    run: RunFolder,
    method: Method,
    objective: Objective,
    lengths: list[int],
    steps: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The rate, and where it was found the trials that it came from; `lengths` are tokens a row, `steps` those of the run."""
    from ctxtune.engine.checkpoint import read_state
    from ctxtune.engine.rate import LEAST_ROWS, UNTRIED, find_rate, trial_steps

    if recipe.train.lr != "auto":
        return {"value": recipe.train.lr, "test": None}
    if (kept := read_state(run.last)) is not None:
        return dict(kept["rate"])
    most = trial_steps(method.ladder, len(lengths), steps)
    if most > steps:
        say(f"lr auto: at most {most} trial steps find the rate of a run of {steps}: --lr names one")
    if len(lengths) < LEAST_ROWS:
        few = f"too few rows to hold any out ({len(lengths)}, and {LEAST_ROWS} are the least)"
        say(f"lr auto: {few}: rate {UNTRIED:.0e} is taken, untried")
        return {"value": UNTRIED, "test": None}
    test = find_rate(
        method.params, objective, lengths, steps, method.shares, recipe.train, ladder=method.ladder, penalty=method.penalty,
        on_trial=lambda lr, loss: say(f"rate {lr:.0e}: held-out loss {loss:.4f}"),
    )  # fmt: skip
    say(
        f"rate {test.lr:.0e} chosen, the lowest within one standard error of the least loss: "
        f"{test.steps} trial steps, {test.seconds:.1f} s"
    )
    tried = [list(pair) for pair in test.tried]
    return {"value": test.lr, "test": {"tried": tried, "steps": test.steps, "seconds": round(test.seconds, 2)}}
