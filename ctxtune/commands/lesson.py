"""What a run learns from, and what pulls: the answers of its rows, or what a long prompt says of their choices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctxtune.backend.ranks import ALONE
from ctxtune.commands import prepare
from ctxtune.commands.batches import Batches
from ctxtune.commands.teacher import checked
from ctxtune.data.branch import grow
from ctxtune.data.encode import EncodedSet
from ctxtune.data.mixture import Beside
from ctxtune.data.windows import TextSpec
from ctxtune.errors import DataError
from ctxtune.recipe.plural import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ctxtune.backend.feed import Feed
    from ctxtune.backend.load import Base
    from ctxtune.backend.ranks import Ranks
    from ctxtune.commands.clock import Clock
    from ctxtune.commands.prepare import Source, Spec
    from ctxtune.commands.run_folder import RunFolder
    from ctxtune.commands.teacher import LongPrompt
    from ctxtune.data.branch import Places
    from ctxtune.data.mixture import Mixture
    from ctxtune.engine.loop import Objective
    from ctxtune.recipe.schema import Recipe


@dataclass(frozen=True)
class Lesson:
    """The examples of a run. Where a teacher pulls, an example is a row with its choices as a tree of tokens, `answers` says
    where in it these stand, and `told` what the teacher said. Of running text an example is a `window` of so many tokens at
    most, and behind the `own` ones stand those of a text that is learned again."""

    examples: EncodedSet
    teacher: LongPrompt | None = None
    answers: Sequence[Sequence[Places]] = ()
    told: Mapping[str, Any] | None = None
    window: int | None = None
    own: int | None = None

    def replaying(self, again: Source | None, spec: Spec) -> Lesson:
        """With what is learned again, if there is some.

        Raises:
            DataError: there is nothing in it.
        """
        if again is None:
            return self
        own, more = self.examples, prepare.to_learn(again, spec)
        both = replace(own, examples=own.examples + more.examples, row_of=own.row_of + more.row_of)
        return replace(self, examples=both, own=len(own.examples))

    def batches(self, mixture: Mixture, steps: int, recipe: Recipe) -> Batches:
        """The way of so many steps through them."""
        examples = self.examples.examples
        tokens, share = [len(one.labels) for one in examples], recipe.data.replay_share
        beside = Beside(share, self.own, tokens) if self.own is not None else None
        return Batches.of([len(one.ids) for one in examples], mixture, steps, recipe.train, beside)

    def only(self, used: Sequence[int]) -> Lesson:
        """Of these examples alone."""
        if len(used) == len(self.examples.examples):
            return self
        rows, examples = self.examples.row_of, self.examples.examples
        some = replace(self.examples, examples=[examples[i] for i in used], row_of=[rows[i] for i in used])
        return replace(self, examples=some, answers=[self.answers[i] for i in used] if self.answers else ())

    def taught(
        self, dev: Source | None, base: Base, mark: str, recipe: Recipe, run: RunFolder, clock: Clock,
        tell: Callable[[str], None], ranks: Ranks = ALONE,
    ) -> Lesson:  # fmt: skip
        """The same with what the teacher says of it, now or in an earlier part of this run; one process asks.

        Raises:
            StorageError: the run's file holds something else.
        """
        if self.teacher is None:
            return self
        teacher = self.teacher

        def ask() -> dict[str, Any]:
            told = run.read_teacher()
            if told is None:
                with clock.part("teacher"):
                    told = teacher.say(self.examples.row_of, dev, (base, mark, recipe, clock), tell)
                run.write_teacher(told)
            return told

        told = ranks.first(ask)
        spec, rows = teacher.spec, dev.rows if dev is not None else ()
        choices = [len(spec.render(row).choices or ()) for row in rows]
        return replace(self, told=checked(told, run.teacher, [len(one) for one in self.answers], choices))

    def objective(self, feed: Feed) -> Objective:
        """What pulls the numbers."""
        from ctxtune.objectives.labels import Labels
        from ctxtune.objectives.teacher import Teacher

        return Labels(feed) if self.told is None else Teacher(feed, self.answers, self.told["log_shares"]["train"])

    @property
    def on_eval(self) -> Sequence[Sequence[float]]:
        """What the teacher said of the rows to score."""
        found: Sequence[Sequence[float]] = self.told["log_shares"]["eval"] if self.told is not None else ()
        return found

    def facts(self) -> dict[str, Any]:
        """What a result tells of the teacher; nothing where there is none."""
        if self.told is None:
            return {}
        return {"teacher": {name: value for name, value in self.told.items() if name != "log_shares"}}

    def remarks(self, rows: int) -> Iterator[str]:
        """What became of so many rows, where it is not one example each."""
        examples = self.examples
        if self.window is not None:
            windows = counted(len(examples.examples), "window")
            yield f"{counted(rows, 'document')} to learn from, in {windows} of at most {self.window:,} tokens"
        for count, verb in ((examples.dropped, "dropped"), (examples.truncated, "cut at their start")):
            if count:
                yield f"{count} of {rows} training rows were too long and {verb}"
        if examples.split:
            rest = f"{examples.split} conversations became several examples, each reply behind what the model will read"
            yield f"the chat template rewrites earlier turns: {rest}"


def choosing(scores: Mapping[str, float]) -> Mapping[str, float]:
    """The scores with the loss that chooses the best step: how far from the teacher, where there is one."""
    return {**scores, "loss": scores["kl_teacher"]} if "kl_teacher" in scores else scores


def replayed(recipe: Recipe, batches: Batches, steps: int) -> dict[str, Any]:
    """What a result tells of text that is learned again; nothing where there is none."""
    path = recipe.data.replay
    return {} if path is None else {"replay": {"path": path, "share": batches.share(steps)}}


def lesson(source: Source, spec: Spec, teacher: LongPrompt | None) -> Lesson:
    """What is learned from these rows.

    Raises:
        DataError: every row was dropped.
        RecipeError: the teacher's prompt leaves no room for some.
    """
    if teacher is None:
        return Lesson(prepare.to_learn(source, spec), window=spec.max_length if isinstance(spec, TextSpec) else None)
    seen = teacher.seen(source.rows)
    asked = prepare.to_score(seen, prepare.unanswered(spec))
    if not asked.requests:
        raise DataError(f"{source.path}: all {len(source.rows)} rows are too long behind a prompt and were dropped")
    dropped = len(source.rows) - len(asked.requests)
    done, answers = EncodedSet(row_of=asked.row_of, dropped=dropped, truncated=asked.truncated), []
    for requests in asked.requests:
        tree, places = grow(requests)
        done.examples.append(tree)
        answers.append([(at, one.labels) for at, one in zip(places, requests, strict=True)])
    return Lesson(done, teacher, answers)
