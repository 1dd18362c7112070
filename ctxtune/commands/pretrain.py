"""The story of pretraining: corpus -> tokens -> rows -> a new model -> fit -> score -> save -> report."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.folder import require_free
from ctxtune.backend.atomic import new_folder, write_text
from ctxtune.backend.ranks import joined
from ctxtune.commands.clock import Clock
from ctxtune.commands.corpus import check_piped, open_corpus
from ctxtune.commands.deeper import depth_for, is_open
from ctxtune.commands.narrow import Trials, transferred
from ctxtune.commands.prepare import parts_of
from ctxtune.commands.pupil import SCORED, Plan, Pupil
from ctxtune.commands.resume import taken_up
from ctxtune.commands.run_folder import RunFolder, check_place, open_shared
from ctxtune.commands.sources import check_scored, default_out
from ctxtune.errors import RecipeError
from ctxtune.methods.pretrain import rate_of
from ctxtune.recipe.dump import dump
from ctxtune.recipe.pretrain import Pretrain

if TYPE_CHECKING:
    from ctxtune.backend.ranks import Ranks
    from ctxtune.commands.adapt import Tell
    from ctxtune.commands.corpus import Corpus
    from ctxtune.engine.loop import State
    from ctxtune.engine.stop import Stop
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Recipe


def pretrain(resolved: Resolved, resume: bool, tell: Tell, sharded: bool = False) -> dict[str, Any]:
    """Train a new model as the recipe says; returns the facts that result.json holds. Several processes may share the work,
    and the numbers too if they are `sharded`.

    Raises:
        CtxtuneError: see the classes in errors.py; a run that had begun can be resumed.
    """
    from ctxtune.engine.stop import stop_signals

    check_recipe(resolved.recipe, sharded)
    out, asked = Path(resolved.recipe.out or default_out(resolved.recipe)), resolved
    with (
        joined(resolved.recipe.device, sharded) as ranks,
        stop_signals(RunFolder(out).after_a_stop) as stop,
        open_shared(out, resume, ranks) as run,
    ):
        resolved, done = ranks.first(lambda: taken_up(run, asked, resume, tell.note, check_piped))
        if done is not None:
            return done
        require_free(run.model)
        return _Run(run, resolved, stop, tell, ranks).story()


def check_recipe(recipe: Recipe, sharded: bool = False) -> Pretrain:
    """The method's settings.

    Raises:
        RecipeError: the recipe asks for what a new model does not have.
    """
    settings, data = recipe.method, recipe.data
    assert isinstance(settings, Pretrain)
    if sharded and settings.compile == "on":
        raise RecipeError("method.compile on does not go with --fsdp yet", "leave it out, or share the rows alone")
    if data.train is None:
        raise RecipeError("data.train is missing", "name the text to learn from: --train FILE")
    check_scored(data)
    refused = {
        "quant": recipe.quant != "none", "dtype float16": recipe.dtype == "float16",
        "forget.budget": recipe.forget.budget is not None, "data.replay": data.replay is not None,
        "a weight in data.train": any(part.weight != 1 for part in parts_of(data.train)),
    }  # fmt: skip
    for key, given in refused.items():
        if given:
            raise RecipeError(f"{key} has no place in pretraining from nothing", "leave it out")
    return settings


def dry_run(resolved: Resolved, tell: Tell, resume: bool = False) -> dict[str, Any]:
    """Everything but the model: the corpus is tokenised, which a run that follows finds done."""
    from ctxtune.backend.newborn import shape_only

    settings, recipe = check_recipe(resolved.recipe), resolved.recipe
    if recipe.data.train == "-":
        raise RecipeError("data.train -: a dry run would use up the pipe", "save it to a file, and name it")
    out = recipe.out or default_out(recipe)
    check_place(Path(out), resume)
    corpus = open_corpus(recipe, settings, tell.note)
    plan = Plan.of(corpus, recipe, settings)
    parameters = sum(one.numel() for one in shape_only(settings, corpus.vocabulary, 0).parameters())
    timed = recipe.minutes is not None
    return {
        "method": settings.model_dump(), "out": out, "parameters": parameters, "corpus": plan.facts(corpus),
        "steps": None if timed else plan.steps, "epochs": None if timed else plan.steps / plan.per_epoch,
        "run_bytes": 4 * parameters * 5,  # numbers and two moments, the best step, the model
        "deepens": is_open(resolved),
        **_foreseen_rate(recipe, settings, plan),
    }  # fmt: skip


def _foreseen_rate(recipe: Recipe, settings: Pretrain, plan: Plan) -> dict[str, Any]:
    """The rate, or what is tried to find it."""
    if recipe.train.lr == "transfer":
        return {"lr": None, "transfer": Trials.of(recipe, settings, plan).facts()}
    return {"lr": rate_of(recipe.train), "transfer": None}


@dataclass
class _Run:
    run: RunFolder
    resolved: Resolved
    stop: Stop
    tell: Tell
    ranks: Ranks
    clock: Clock = field(default_factory=Clock)

    def story(self) -> dict[str, Any]:
        return self.run.told(self.clock, self._story, self.ranks)

    def _story(self) -> dict[str, Any]:
        recipe = self.resolved.recipe
        settings = check_recipe(recipe)
        with self.clock.part("corpus"):
            corpus = self.ranks.in_turn(lambda: open_corpus(recipe, settings, self.tell.note))
            plan = Plan.of(corpus, recipe, settings)
        if is_open(self.resolved) and not self.ranks.first(self.run.recipe.exists):
            self.resolved = self._deeper(settings, corpus, plan)
            settings = check_recipe(self.resolved.recipe)
        self.resolved = self.ranks.first(lambda: self._with_rate(settings, corpus, plan))
        recipe = self.resolved.recipe
        pupil = Pupil.born(recipe, settings, corpus, plan, self.ranks)
        if not self.ranks.first(self.run.recipe.exists):
            pupil = self._begin(pupil)
        elif pupil.settings.compile == "on":
            with self.clock.part("compile"):
                pupil.compile()
        with pupil.quick():
            with self.clock.part("loop"):
                state = self._loop(pupil)
            with self.clock.part("after"):
                scores = pupil.score(SCORED)
        with self.clock.part("save"):
            saved = self._save(pupil)
        facts = {"method": settings.model_dump(), "out": str(self.run.path), **pupil.facts(), **_counted(state, pupil)}
        tried = self.run.read_choice()
        if tried is not None and tried["lr"] != recipe.train.lr:
            tried = None  # a run that was killed before it had a recipe left it
        return {**facts, "transfer": tried, "scores": {"after": scores}, "saved": saved}

    def _deeper(self, settings: Pretrain, corpus: Corpus, plan: Plan) -> Resolved:
        """The recipe with as many layers as suit its minutes."""
        from ctxtune.backend.newborn import flop_of

        recipe = self.resolved.recipe
        assert recipe.minutes is not None
        with self.clock.part("pace"):
            pupil = Pupil.born(recipe, settings.model_copy(update={"compile": "off"}), corpus, plan, self.ranks)
            with pupil.quick():
                epochs = recipe.minutes * 60 / pupil.pace() / plan.per_epoch
        depth = depth_for(epochs, settings, lambda one: flop_of(one, corpus.vocabulary))
        if depth > settings.depth:
            self.tell.note(
                f"{settings.depth} layers would see the corpus {epochs:.1f} times: {depth} layers learn more from it"
            )
        method = settings.model_copy(update={"depth": depth})
        origin = {**self.resolved.origin, "method.depth": "auto"}
        return replace(self.resolved, recipe=recipe.model_copy(update={"method": method}), origin=origin)

    def _with_rate(self, settings: Pretrain, corpus: Corpus, plan: Plan) -> Resolved:
        """The recipe with its rate; where a narrow model is to find that, the table of what it found is kept."""
        if self.resolved.recipe.train.lr != "transfer":
            return self.resolved
        with self.clock.part("transfer"):
            resolved, table = transferred(self.resolved, settings, corpus, plan, self.tell.note)
        self.run.write_choice(table)
        return resolved

    def _begin(self, pupil: Pupil) -> Pupil:
        """Write the recipe; where it leaves open whether the layers are compiled, or says minutes, with what that comes to."""
        minutes = pupil.recipe.minutes
        with self.clock.part("pace"):
            pupil, pace = pupil.settled(self.tell.note)
        found: dict[str, object] = {"method.compile": pupil.settings.compile}
        if minutes is not None and pace is not None:
            steps = max(1, int(minutes * 60 / pace))
            found["train.steps"], pupil = steps, replace(pupil, plan=replace(pupil.plan, steps=steps))
            self.tell.note(f"{pace:.3f} s a step: {steps:,} of them in {minutes:g} minutes")
        inputs = pupil.corpus.inputs
        if self.ranks.leads:
            write_text(self.run.recipe, dump(self.resolved, relative_to=self.run.path, inputs=inputs, overrides=found))
        return pupil

    def _loop(self, pupil: Pupil) -> State:
        from ctxtune.engine.checkpoint import read_state
        from ctxtune.engine.log import RunLog
        from ctxtune.engine.loop import Desk, fit

        kept, course = read_state(self.run.last), pupil.course
        log = RunLog(self.run.metrics, kept["loop"]["step"] if kept else None, self.ranks.leads)
        return fit(
            pupil.params,
            pupil.learned,
            course,
            pupil.recipe.train,
            Desk(self.run.last, self.run.best, log, self.ranks),
            self.stop,
            evaluate=lambda: pupil.glance(self.tell.note),
            on_step=self.tell.step,
            token_count=pupil.learned.tokens,
            notes={"rate": course.lr},
        )

    def _save(self, pupil: Pupil) -> dict[str, Any]:
        from ctxtune.backend.newborn import write_model
        from ctxtune.backend.sharding import whole

        numbers = {name: whole(one) for name, one in pupil.model.state_dict().items()}
        if not self.ranks.leads:
            return {}
        with new_folder(self.run.model) as made:
            write_model(pupil.model, pupil.corpus.tokenizer, made, numbers)
        files = [path for path in self.run.model.iterdir() if path.is_file()]
        return {"folder": str(self.run.model), "bytes": sum(path.stat().st_size for path in files)}


def _counted(state: State, pupil: Pupil) -> dict[str, Any]:
    return {
        "steps": state.step,
        "epochs": state.step / pupil.plan.per_epoch,
        "tokens": state.tokens,
        "best_step": state.best_step,
        "stopped_early": state.stopped_early,
        "loop_seconds": round(state.seconds, 3),
        "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
    }
