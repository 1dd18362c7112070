"""How what moves is trained on an opened base, and judged: once, and beside a chosen mask once more with a random one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.backend.ranks import ALONE
from ctxtune.commands.chosen_mask import backward_of
from ctxtune.commands.guard import ranked
from ctxtune.commands.lesson import choosing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctxtune.backend.feed import Feed
    from ctxtune.backend.ranks import Ranks
    from ctxtune.commands.adapt import Tell
    from ctxtune.commands.batches import Batches
    from ctxtune.commands.clock import Clock
    from ctxtune.commands.guard import Guarded
    from ctxtune.commands.judge import Judge
    from ctxtune.commands.minding import Minds
    from ctxtune.commands.run_folder import RunFolder
    from ctxtune.engine.loop import Objective, State
    from ctxtune.engine.stop import Stop
    from ctxtune.evals.items import Item
    from ctxtune.methods.registry import Method
    from ctxtune.recipe.schema import Train


@dataclass(frozen=True)
class Fitted:
    """What became of it: what the loop counted, scores and drift, what a budget came to, and what every row gave."""

    state: State
    scored: bool
    after: dict[str, Any]
    guard: dict[str, Any]
    rows: Sequence[Item]

    def facts(self) -> dict[str, Any]:
        """What a result tells of the loop."""
        state = self.state
        return {
            "steps": state.step,
            "best_step": state.best_step if self.scored else state.step,
            "stopped_early": state.stopped_early,
            "loop_seconds": round(state.seconds, 3),
            "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
        }


@dataclass(frozen=True)
class Fitting:
    """What a run trains with, whatever moves: `notes`, its rate among them, are kept in every checkpoint; `minds` says
    what the base minds of changes, where they cost that."""

    options: Train
    objective: Objective
    feed: Feed
    batches: Batches
    steps: int
    notes: Mapping[str, Any]
    guarded: Guarded | None
    minds: Minds
    stop: Stop
    tell: Tell
    clock: Clock
    ranks: Ranks = ALONE

    def fit(self, run: RunFolder, method: Method, judge: Judge, rows: bool = False) -> Fitted:
        """Train and judge; the files of it lie in `run`. What every row gave is known if `rows` are asked for."""
        with self.clock.part("loop"):
            state = self._loop(run, method, judge)
        # The best numbers were scored when they were reached; a run that goes on does not know the scores from before.
        best = (scores for scores in judge.told if choosing(scores)["loss"] == state.best_loss)
        guarded, changed, known = self.guarded, method.finish(), next(best, None)
        share, kl = guarded.step_back(method, self.tell.note) if guarded is not None else (1.0, 0.0)
        if changed or share < 1 or (rows and judge.told and known is not judge.told[-1]):
            known = None  # of the last scores alone it is there what every row gave
        with self.clock.part("after"):
            after = judge.after(known=known)
            guard = guarded.facts(state, share, kl, after, self.tell.note) if guarded is not None else {}
        return Fitted(state, judge.choices is not None, after, guard, judge.rows)

    def _loop(self, run: RunFolder, method: Method, judge: Judge) -> State:
        from ctxtune.engine.checkpoint import read_state
        from ctxtune.engine.log import RunLog
        from ctxtune.engine.loop import Course, Desk, fit

        kept, batches, guarded = read_state(run.last), self.batches, self.guarded
        backward = backward_of(self.objective, batches, self.steps)
        regrow = (method.regrow, backward) if method.regrow is not None else None
        log = RunLog(run.metrics, kept["loop"]["step"] if kept else None, self.ranks.leads)
        begun = self.notes["before"].get("start", {}).get("scores", {})
        guard = guarded.guard if guarded is not None else None
        rate = self.notes["rate"]["value"]
        return fit(
            method.params,
            self.objective,
            Course(self.steps, rate, batches.epoch, method.shares, method.penalty, regrow, guard),
            self.options,
            Desk(run.last, run.best, log, self.ranks),
            self.stop,
            evaluate=(lambda: ranked(judge.choose(), guarded)) if judge.choices is not None else None,
            begun=ranked(begun, guarded if kept is None else None) if begun else {},
            on_step=self.tell.step,
            token_count=lambda batch: sum(self.feed.lengths[i] for i in batch),
            notes=self.notes,
        )
