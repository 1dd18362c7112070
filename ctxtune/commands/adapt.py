"""The story of an adapting run: read -> load -> keep -> score -> find a rate -> fit -> score again -> save -> report."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ctxtune.adapter.folder import require_free
from ctxtune.backend.ranks import joined, sharing
from ctxtune.commands import begin, depth, prepare
from ctxtune.commands.chosen_mask import backward_over, known, mask_manifest, settled
from ctxtune.commands.clock import Clock
from ctxtune.commands.control import Control
from ctxtune.commands.earlier_masks import check_masks
from ctxtune.commands.fitting import Fitting
from ctxtune.commands.guard import check_guarded, minded_text, open_guard
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.commands.kept import facts_of, keep_checked
from ctxtune.commands.learner import load_to_train
from ctxtune.commands.lesson import Lesson, lesson, replayed
from ctxtune.commands.minding import Minds, minding_over, units_minded
from ctxtune.commands.rate import rate_of
from ctxtune.commands.resume import taken_up
from ctxtune.commands.run_folder import RunFolder, open_shared
from ctxtune.commands.sources import Sources, default_out, read_sources, span
from ctxtune.commands.transfer import set_off
from ctxtune.data.finite import finite
from ctxtune.errors import RecipeError
from ctxtune.recipe.dump import dump

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from ctxtune.adapter.manifest import Manifest
    from ctxtune.backend.feed import Feed
    from ctxtune.backend.load import Base
    from ctxtune.backend.ranks import Ranks
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.batches import Batches
    from ctxtune.commands.guard import Guarded
    from ctxtune.commands.judge import Judge
    from ctxtune.data.encode import EncodedSet
    from ctxtune.data.mixture import Mixture
    from ctxtune.engine.loop import StepFacts
    from ctxtune.engine.stop import Stop
    from ctxtune.methods.motion import Span
    from ctxtune.methods.registry import Method
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Recipe


NOT_MEASURED = "forgetting is not measured: an encoder without the head that fills a mask predicts nothing to compare"


class Tell(Protocol):
    """How a run speaks while it works."""

    def note(self, text: str) -> None: ...
    def step(self, facts: StepFacts) -> None: ...


def adapt(resolved: Resolved, resume: bool, tell: Tell) -> dict[str, Any]:
    """Adapt a model as the recipe says; returns the facts that result.json holds.

    Raises:
        CtxtuneError: see the classes in errors.py; a run that had begun can be resumed.
    """
    from ctxtune.engine.stop import stop_signals

    out, asked = Path(resolved.recipe.out or default_out(resolved.recipe)), resolved
    with (
        joined(resolved.recipe.device) as ranks,
        stop_signals(RunFolder(out).after_a_stop) as stop,
        open_shared(out, resume, ranks) as run,
    ):
        resolved, done = ranks.first(lambda: taken_up(run, asked, resume, tell.note))
        if done is not None:
            return done
        require_free(run.adapter)
        sources = read_sources(resolved.recipe, tell.note)
        return _Run(run, resolved, sources, stop, tell, ranks).story()


@dataclass
class _Run:
    """One run; every method is a paragraph of its story."""

    run: RunFolder
    resolved: Resolved
    sources: Sources
    stop: Stop
    tell: Tell
    ranks: Ranks
    clock: Clock = field(default_factory=Clock)
    units: Mapping[str, Tensor] = field(default_factory=dict)
    """what the base minds of each unit that a mask was chosen from"""

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe

    def story(self) -> dict[str, Any]:
        return self.run.told(self.clock, self._story, self.ranks)

    def _story(self) -> dict[str, Any]:
        from ctxtune.backend.fingerprint import fingerprint
        from ctxtune.backend.quantise import weight_bytes
        from ctxtune.backend.trunk import Trunk
        from ctxtune.commands.judge import Judge
        from ctxtune.methods.registry import open_method

        with self.clock.part("load"):
            base = load_to_train(self.recipe, self.sources.model, self.tell.note)
            mark = fingerprint(self.sources.model)
            prepare.check_model(self.recipe, mark)
            check_masks(self.recipe, mark)
        check_guarded(self.recipe, base.anatomy)
        spec = prepare.encoder(self.recipe.data, self.sources.templates, base.tokenizer, base.anatomy, base.max_length)
        self.sources.inputs.update(prepare.chat_inputs(self.recipe.data, base.tokenizer, self.recipe.inputs or {}))
        bare, train, dev = spec, self.sources.train, self.sources.eval
        self.resolved, start = begin.settle(self.resolved, train, spec, self.tell.note)
        if start is not None:
            spec, dev = start.spec, start.scored(dev)
            self.sources = replace(self.sources, eval=dev)
            self.sources.inputs.update(start.inputs)
        learned = start.lesson(train) if start is not None else lesson(train, spec, None)
        examples = learned.examples
        for remark in learned.remarks(len(self.sources.train.rows)):
            self.tell.note(remark)
        mixture = prepare.mixture(self.sources.train, examples)
        course = span(self.recipe, mixture.per_epoch)
        with self.clock.part("choice"):
            self.resolved, choice = self.ranks.first(lambda: self._choose(base, examples, mixture, course))
        learned = learned.replaying(self.sources.replay, spec)
        batches = learned.batches(mixture, course.steps, self.recipe)
        learned = learned.only(batches.used)
        minding = minding_over(base, self.sources.guard, mark, self.recipe.cache)
        course = replace(course, backward=backward_over(base, learned, batches, course.steps), minding=minding)
        with self.clock.part("choice"):
            manifest = self._mask_manifest(base, mark)
            settings = self.ranks.first(lambda: settled(self.run, self.recipe, base, course, manifest, self.tell.note))
            self.units = units_minded(settings, base, course)
        method = open_method(settings, base.model, base.anatomy, course)
        if self.ranks.leads:
            self._write_recipe(mark)
        learned = learned.taught(dev, base, mark, self.recipe, self.run, self.clock, self.tell.note, self.ranks)
        with Trunk(base, method.start) as trunk:
            judge = Judge.make(
                trunk, dev, bare, self._probe(base), self.tell.note, len(start.spec.before) if start else 0
            )
            judge.taught = learned.on_eval
            near = set_off(trunk, method, start, learned, mark, self.tell.note)
            facts = self._train(trunk, judge, spec, learned, batches, course.steps, method, mark)
        facts |= {"train": examples.facts() | mixture.facts(), **replayed(self.recipe, batches, course.steps)}
        facts |= {"parameters": base.parameters, "weight_bytes": weight_bytes(base.model), "choice": choice, **near}
        with self.clock.part("save"):
            facts["adapter"] = self._save(base, method, mark, facts, start) if self.ranks.leads else {}
        return facts

    def _train(
        self,
        trunk: Trunk,
        judge: Judge,
        spec: prepare.Spec,
        learned: Lesson,
        batches: Batches,
        steps: int,
        method: Method,
        mark: str,
    ) -> dict[str, Any]:
        from ctxtune.engine.schedule import highest

        with trunk.closed():
            control = Control.of(self.recipe, method, trunk.base.model, trunk.base.anatomy)
        feed = begin.learning_feed(trunk, method.virtual, learned.examples.examples, self.recipe.train.pack)
        with self.clock.part("cache"):
            cache = self._keep(feed, mark)
        with self.clock.part("before"):
            judge, before = self._before(trunk, judge, spec, method, mark)
            guarded = self._guard(trunk, method, learned.examples, mark)
        minds = self._minds(trunk, guarded, mark)
        minds.weigh(method, self.clock, self.tell.note)
        objective = learned.objective(feed)
        own = feed.lengths[: batches.own]  # a rate is tried on what is new
        with self.clock.part("rate"):
            seek = partial(rate_of, self.recipe, self.run, method, objective, own, steps, self.tell.note)
            rate = self.ranks.first(seek)
        notes = {"rate": rate, "before": before, "digest": cache["digest"]}
        fitting = Fitting(
            self.recipe.train, objective, feed, batches, steps, notes, guarded, minds, self.stop, self.tell, self.clock,
            self.ranks,
        )  # fmt: skip
        with sharing(self.ranks):
            fitted = fitting.fit(self.run, method, judge, rows=control is not None)
            beside = control.facts(method, fitted, fitting, self.run, trunk, judge) if control is not None else None
        return {
            "method": known(self.recipe.method, trunk.base.anatomy).model_dump(),
            "model": self.recipe.model,
            "base": mark,
            "out": str(self.run.path),
            "device": trunk.base.device.reason,
            "structure": trunk.base.structure,
            "dtype": trunk.base.device.type_name,
            "quant": trunk.base.quant,
            "trainable": sum(param.numel() for param in method.params.values()),
            "start_layer": method.start,
            "leaked": self.sources.leaked,
            "packed": feed.pack,
            "cache": cache,
            "lr": rate,
            "highest_rate": rate["value"] * highest(steps, self.recipe.train.schedule, self.recipe.train.warmup),
            **fitted.facts(),
            "scores": {"before": before["scores"], "after": fitted.after["scores"]},
            "start": before.get("start"),
            "penalty": method.penalty.facts() if method.penalty is not None else None,
            **(learned.facts() | fitted.guard | ({} if beside is None else {"control": beside})),
            "forgetting": {"before": before["forgetting"], "after": fitted.after["forgetting"]}
            | ({"not_measured": NOT_MEASURED} if trunk.base.anatomy.kind == "classifier" else {}),
        }

    def _before(
        self, trunk: Trunk, judge: Judge, spec: prepare.Spec, method: Method, mark: str
    ) -> tuple[Judge, dict[str, Any]]:
        """What the base says, and behind virtual tokens what it says where they start; and who judges from here on."""
        where = "off" if trunk.plain else self.recipe.cache
        if method.virtual is None:
            judge.keep(where, mark)
        before = judge.before(self.run.last, where, mark)
        if method.virtual is None:
            return judge, before
        behind = judge.behind(trunk, self.sources.eval, spec, method.virtual)
        behind.keep(where, mark)
        return behind, before if "start" in before else {**before, "start": behind.after("at the start")}

    def _guard(self, trunk: Trunk, method: Method, examples: EncodedSet, mark: str) -> Guarded | None:
        """What holds the forgetting within its budget, where there is one."""
        if (text := self.sources.guard) is None or self.recipe.forget.budget is None:
            return None
        with heartbeat(self.tell.note, "reading the text that the forgetting budget is trained on"):
            return open_guard(trunk, method, self.recipe, text, examples, mark)

    def _minds(self, trunk: Trunk, guarded: Guarded | None, mark: str) -> Minds:
        """What the base minds of changes, where there is a text that tells."""
        if (text := self.sources.guard) is None:
            return Minds()
        read = partial(minded_text, trunk, self.recipe, text, guarded, mark)
        return Minds(self.units, read, self.recipe.train.seed)

    def _probe(self, base: Base) -> str | None:
        """The text that forgetting is measured on; a classifier says nothing of a text that could be forgotten.

        Raises:
            RecipeError: a text of one's own was asked for all the same.
        """
        if base.anatomy.kind != "classifier" or self.sources.probe is None:
            return self.sources.probe
        if self.recipe.forget.probe != "builtin":
            raise RecipeError(
                f"forget.probe {self.recipe.forget.probe}: {NOT_MEASURED}", "leave it out, or set it to none"
            )
        self.tell.note(NOT_MEASURED)
        return None

    def _choose(
        self, base: Base, examples: EncodedSet, mixture: Mixture, course: Span
    ) -> tuple[Resolved, dict[str, Any] | None]:
        """Choose the layers where the recipe leaves them open; and the table they were chosen from, now or earlier."""
        if not depth.undecided(self.recipe):
            return self.resolved, self.run.read_choice()
        drawn = dict.fromkeys(mixture.epoch(self.recipe.train.seed, 0))
        pool = [examples.examples[i] for i in drawn]
        resolved, choice = depth.settle(self.resolved, base, pool, course, self.tell.note)
        self.run.write_choice(choice)
        return resolved, choice

    def _write_recipe(self, mark: str) -> None:
        from ctxtune.backend.atomic import write_text

        if not self.run.recipe.exists():
            write_text(self.run.recipe, self.recipe_text(mark, self.run.path))

    def _mask_manifest(self, base: Base, mark: str) -> Callable[[], Manifest]:
        return lambda: mask_manifest(self.recipe, self.recipe_text(mark, Path.cwd()), base, mark, self.sources.inputs)

    def recipe_text(self, mark: str, relative_to: Path | None) -> str:
        """The resolved recipe, with the hashes of what was read."""
        inputs = {**self.sources.inputs, "model": mark}
        return dump(self.resolved, relative_to=relative_to, inputs=inputs)

    def _keep(self, feed: Feed, mark: str) -> dict[str, Any]:
        """Run the frozen layers once, and check that training from what they said is the same as training through them."""
        from ctxtune.backend.feed import unpackable
        from ctxtune.engine.checkpoint import read_state

        if self.recipe.train.pack and (reason := unpackable(feed)):
            self.tell.note(f"train.pack: {reason}, so that each example gets a row of its own")
            feed.pack = False
        states, difference = keep_checked(feed, self.recipe.cache, mark, self.tell.note)
        kept = read_state(self.run.last)
        if states is not None and kept is not None and kept["digest"] not in (None, states.digest):
            self.tell.note("the kept states are not those of the interrupted run: it goes on, but not bit for bit")
        return facts_of(states, difference)

    def _save(
        self, base: Base, method: Method, mark: str, facts: dict[str, Any], start: begin.Beginning | None
    ) -> dict[str, Any]:
        from ctxtune.adapter.card import model_card
        from ctxtune.adapter.manifest import BaseModel, Change, Manifest
        from ctxtune.adapter.write import write_adapter
        from ctxtune.backend.classes import class_names

        causal = base.anatomy.kind == "causal"
        manifest = Manifest(
            method=self.recipe.method.name,
            settings=known(self.recipe.method, base.anatomy).model_dump(exclude={"name"})
            | ({"chosen_from": facts["choice"]} if facts["choice"] else {}),
            recipe=self.recipe_text(mark, Path.cwd()),
            base=BaseModel(self.recipe.model, mark, causal),
            quant=self.recipe.quant,
            inputs=self.sources.inputs,
            seed=self.recipe.train.seed,
            trainable=facts["trainable"],
            leaked=self.sources.leaked,
            classes=class_names(base.model.config) if base.anatomy.kind == "classifier" else [],
            shown=start.shown(base.model, method.virtual) if start is not None and method.virtual is not None else None,
            scores=Change(finite(facts["scores"]["before"]), finite(facts["scores"]["after"])),
            forgetting=Change(finite(facts["forgetting"]["before"]), finite(facts["forgetting"]["after"])),
        )
        tensors = method.tensors()
        config, card = method.config(self.recipe.model), model_card(manifest)
        num_bytes = write_adapter(self.run.adapter, tensors, manifest, config, card, method.metadata())
        return {"folder": str(self.run.adapter), "bytes": num_bytes, "tensors": len(tensors)}
