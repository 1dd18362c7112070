"""The story of pretraining: corpus -> tokens -> rows -> a new model -> fit -> score -> save -> report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.folder import require_free
from ctxtune.backend.atomic import new_folder, write_text
from ctxtune.commands.clock import Clock
from ctxtune.commands.corpus import Corpus, open_corpus
from ctxtune.commands.resume import check_unchanged, same_recipe
from ctxtune.commands.run_folder import RunFolder, check_place, open_run
from ctxtune.commands.sources import default_out
from ctxtune.data.fill import Rows, fill
from ctxtune.data.finite import plain
from ctxtune.data.shuffle import Order
from ctxtune.errors import RecipeError
from ctxtune.recipe.dump import dump
from ctxtune.recipe.pretrain import NARROW, Pretrain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.device import Device
    from ctxtune.commands.adapt import Tell
    from ctxtune.engine.loop import State
    from ctxtune.engine.stop import Stop
    from ctxtune.objectives.next_token import NextToken
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Recipe

RATES = {"muon": 0.01, "adamw": 3e-3}
"""of a model of NARROW numbers"""
_GLANCE, _SCORED = 1 << 17, 1 << 20  # tokens of what is held out that are scored on the way, and at the end
_TOGETHER = 1 << 23  # tokens x numbers x layers that are in memory for a backward pass, some 34 floats each


def pretrain(resolved: Resolved, resume: bool, tell: Tell) -> dict[str, Any]:
    """Train a new model as the recipe says; returns the facts that result.json holds.

    Raises:
        CtxtuneError: see the classes in errors.py; a run that had begun can be resumed.
    """
    from ctxtune.engine.stop import stop_signals

    check_recipe(resolved.recipe)
    out = Path(resolved.recipe.out or default_out(resolved.recipe))
    with stop_signals(RunFolder(out).after_a_stop) as stop, open_run(out, resume) as run:
        if resume and not run.recipe.exists():
            tell.note(f"{run.path} holds no run to go on with: this one starts from the beginning")
        if run.recipe.exists():
            resolved = same_recipe(run, resolved)
        if (done := run.read_result()) is not None:
            check_unchanged(resolved.recipe)
            tell.note(f"{run.path} is complete: nothing to resume")
            return done
        require_free(run.model)
        return _Run(run, resolved, stop, tell).story()


def check_recipe(recipe: Recipe) -> Pretrain:
    """The method's settings.

    Raises:
        RecipeError: the recipe asks for what a new model does not have.
    """
    settings, data = recipe.method, recipe.data
    assert isinstance(settings, Pretrain)
    if data.train is None:
        raise RecipeError("data.train is missing", "name the text to learn from: --train FILE")
    if "-" in (data.train, data.eval):
        raise RecipeError(
            "pretraining reads its corpus again and again, and a pipe can be read once",
            "save it to a file, and name it",
        )
    refused = {
        "quant": recipe.quant != "none", "dtype float16": recipe.dtype == "float16",
        "forget.budget": recipe.forget.budget is not None, "data.messages": data.messages is not None,
    }  # fmt: skip
    for key, given in refused.items():
        if given:
            raise RecipeError(f"{key} has no place in pretraining from nothing", "leave it out")
    return settings


@dataclass(frozen=True)
class Plan:
    """Rows of the corpus, and the steps through them."""

    train: Rows
    held: Rows
    steps: int
    per_epoch: int

    @classmethod
    def of(cls, corpus: Corpus, recipe: Recipe, settings: Pretrain) -> Plan:
        """Rows and steps, as the recipe has them."""
        train, held = fill(corpus.train, settings.row), fill(corpus.held, settings.row)
        per_epoch = math.ceil(len(train) / recipe.train.batch)
        steps = recipe.train.steps or max(1, math.ceil(recipe.train.epochs * per_epoch))
        return cls(train, held, steps, per_epoch)

    def facts(self, corpus: Corpus) -> dict[str, Any]:
        """What a result tells of the corpus."""
        return {
            "train": asdict(corpus.train.counts), "held_out": asdict(corpus.held.counts), "rows": len(self.train),
            "vocabulary": corpus.vocabulary,
        }  # fmt: skip


def dry_run(resolved: Resolved, tell: Tell, resume: bool = False) -> dict[str, Any]:
    """Everything but the model: the corpus is tokenised, which a run that follows finds done."""
    from ctxtune.backend.newborn import shape_only

    settings, recipe = check_recipe(resolved.recipe), resolved.recipe
    out = recipe.out or default_out(recipe)
    check_place(Path(out), resume)
    corpus = open_corpus(recipe, settings, tell.note)
    plan = Plan.of(corpus, recipe, settings)
    parameters = sum(one.numel() for one in shape_only(settings, corpus.vocabulary, 0).parameters())
    return {
        "method": settings.model_dump(), "out": out, "parameters": parameters, "corpus": plan.facts(corpus),
        "steps": plan.steps, "epochs": plan.steps / plan.per_epoch,
        "run_bytes": 4 * parameters * 5,  # numbers and two moments, the best step, the model
        "lr": rate_of(recipe),
    }  # fmt: skip


def rate_of(recipe: Recipe) -> float:
    """The rate of a recipe; of `auto` the one that narrow models learn best at."""
    return recipe.train.lr if recipe.train.lr != "auto" else RATES[recipe.train.optimizer]


@dataclass
class _Run:
    run: RunFolder
    resolved: Resolved
    stop: Stop
    tell: Tell
    clock: Clock = field(default_factory=Clock)

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe

    def story(self) -> dict[str, Any]:
        with self.clock.part("total"):
            facts = self._story()
        result: dict[str, Any] = plain({**facts, "seconds": self.clock.seconds})
        self.run.write_result(result)
        return result

    def _story(self) -> dict[str, Any]:
        from ctxtune.backend.device import choose_device
        from ctxtune.backend.linear import quicken
        from ctxtune.backend.newborn import make_model
        from ctxtune.objectives.next_token import NextToken

        settings = check_recipe(self.recipe)
        with self.clock.part("corpus"):
            corpus = open_corpus(self.recipe, settings, self.tell.note)
            plan = Plan.of(corpus, self.recipe, settings)
        device = choose_device(self.recipe.device, self.recipe.dtype)
        end = corpus.tokenizer.eos_token_id
        model, anatomy = make_model(settings, corpus.vocabulary, end, self.recipe.train.seed)
        model.to(device.name)
        if device.name == "cpu" and not device.narrow:
            quicken(model)
        if not self.run.recipe.exists():
            text = dump(self.resolved, relative_to=self.run.path, inputs=corpus.inputs)
            write_text(self.run.recipe, text)
        most = max(settings.row, _TOGETHER // (settings.states * settings.depth))
        learned, held = (NextToken(model, anatomy, rows, device, most) for rows in (plan.train, plan.held))
        with self.clock.part("loop"):
            state = self._loop(model, anatomy, settings, plan, learned, held, corpus)
        with self.clock.part("after"):
            scores = score(held, corpus, _SCORED)
        with self.clock.part("save"):
            folder = self._save(model, corpus.tokenizer)
        return {**self._facts(state, plan, corpus, device, model), "scores": {"after": scores}, "saved": folder}

    def _loop(
        self, model: nn.Module, anatomy: Anatomy, settings: Pretrain, plan: Plan, learned: NextToken, held: NextToken,
        corpus: Corpus,
    ) -> State:  # fmt: skip
        from ctxtune.backend.newborn import matrices
        from ctxtune.engine.checkpoint import read_state
        from ctxtune.engine.log import RunLog
        from ctxtune.engine.loop import Course, Desk, fit

        params, turned = dict(model.named_parameters()), frozenset(matrices(model, anatomy))
        shares = shares_of(params, turned, anatomy, settings, self.recipe.train.optimizer)
        kept = read_state(self.run.last)
        log = RunLog(self.run.metrics, resume_at=kept["loop"]["step"] if kept else None)
        batches = Order(len(plan.train), self.recipe.train.batch, self.recipe.train.seed).epoch
        rate = rate_of(self.recipe)
        return fit(
            params,
            learned,
            Course(plan.steps, rate, batches, lambda step, epoch: shares, matrices=turned),
            self.recipe.train,
            Desk(self.run.last, self.run.best, log),
            self.stop,
            evaluate=lambda: score(held, corpus, _GLANCE),
            on_step=self.tell.step,
            token_count=learned.tokens,
            notes={"rate": rate},
        )

    def _save(self, model: nn.Module, tokenizer: Any) -> dict[str, Any]:
        from ctxtune.backend.newborn import write_model

        with new_folder(self.run.model) as made:
            write_model(model, tokenizer, made)
        files = [path for path in self.run.model.iterdir() if path.is_file()]
        return {"folder": str(self.run.model), "bytes": sum(path.stat().st_size for path in files)}

    def _facts(self, state: State, plan: Plan, corpus: Corpus, device: Device, model: nn.Module) -> dict[str, Any]:
        return {
            "method": self.recipe.method.model_dump(),
            "out": str(self.run.path),
            "device": device.reason,
            "dtype": device.type_name,
            "parameters": sum(one.numel() for one in model.parameters()),
            "corpus": plan.facts(corpus),
            "lr": rate_of(self.recipe),
            "steps": state.step,
            "epochs": state.step / plan.per_epoch,
            "tokens": state.tokens,
            "best_step": state.best_step,
            "stopped_early": state.stopped_early,
            "loop_seconds": round(state.seconds, 3),
            "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
        }


def shares_of(
    params: dict[str, nn.Parameter], turned: frozenset[str], anatomy: Anatomy, settings: Pretrain, optimizer: str
) -> dict[str, float]:
    """What share of the rate each number moves at, so that one rate does for every width (Yang et al. 2021, muP).

    Of AdamW the steps of a matrix, and of the head, go with 1 / width; of Muon, whose steps are 0.2 sqrt(width) long, those of
    a matrix with 1 / sqrt(width). Embeddings, norms and biases have the whole rate.
    """
    wider = NARROW / settings.states
    own = wider**0.5 if optimizer == "muon" else wider
    return {name: own if name in turned else wider if name.startswith(f"{anatomy.head}.") else 1.0 for name in params}


def score(held: NextToken, corpus: Corpus, most: int) -> dict[str, float]:
    """Loss in nats a token, and bits per byte, of what is held out: all of it, or rows spread over it of so many tokens."""
    rows = _spread(held, most)
    loss = math.fsum(held.losses(rows)) / held.tokens(rows)
    return {"loss": loss, "bits_per_byte": loss / math.log(2) / corpus.bytes_a_token, "tokens": held.tokens(rows)}


def _spread(held: NextToken, most: int) -> Sequence[int]:
    every = math.ceil(sum(held.lengths) / most)
    return range(0, len(held.rows), every)
