"""A new model with the text that it learns from and the text that it is judged on."""

from __future__ import annotations

import math
import statistics
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ctxtune.backend.ranks import ALONE
from ctxtune.data.fill import Rows, fill
from ctxtune.data.shuffle import Order
from ctxtune.errors import CtxtuneError
from ctxtune.methods.pretrain import rate_of, shares_of, spelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.device import Device
    from ctxtune.backend.ranks import Ranks
    from ctxtune.commands.corpus import Corpus
    from ctxtune.engine.alike import Alike
    from ctxtune.engine.loop import Course
    from ctxtune.objectives.next_token import NextToken
    from ctxtune.recipe.pretrain import Pretrain
    from ctxtune.recipe.schema import Recipe

GLANCE, SCORED = 1 << 17, 1 << 20
"""tokens of what is held out that are scored on the way, and at the end"""
FEW, WORTH = 300, 120.0
"""steps and seconds of a run, from which on it is tried whether compiling pays"""
_WORDS = 32  # tokens that it writes on the way
_PACED = 8  # steps that are timed, behind two that are not
_TOGETHER = 1 << 23  # tokens x numbers x layers that are in memory for a backward pass, some 34 floats each


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
            "vocabulary": corpus.vocabulary, "again": corpus.again,
        }  # fmt: skip


@dataclass(frozen=True)
class Pupil:
    """`learned` pulls the model towards what it learns from, `held` tells the loss of what it does not."""

    recipe: Recipe
    settings: Pretrain
    corpus: Corpus
    plan: Plan
    model: nn.Module
    anatomy: Anatomy
    device: Device
    learned: NextToken
    held: NextToken
    ranks: Ranks = ALONE
    root: nn.Module | None = None

    @classmethod
    def born(cls, recipe: Recipe, settings: Pretrain, corpus: Corpus, plan: Plan, ranks: Ranks = ALONE) -> Pupil:
        """It knows nothing yet."""
        from ctxtune.backend.device import choose_device
        from ctxtune.backend.linear import quicken
        from ctxtune.backend.newborn import make_model
        from ctxtune.backend.sharding import shard
        from ctxtune.objectives.next_token import NextToken

        device = choose_device(recipe.device, recipe.dtype)
        end = corpus.tokenizer.eos_token_id
        model, anatomy = make_model(settings, corpus.vocabulary, end, recipe.train.seed)
        model.to(device.name)
        if device.name == "cpu" and not device.narrow:
            quicken(model)
        root = shard(model, anatomy, device) if ranks.sharded else None
        if root is not None:
            settings = settings.model_copy(update={"compile": "off"})  # layers that are gathered as they come to work
        most = max(settings.row, _TOGETHER // (settings.states * settings.depth))
        learned, held = (NextToken(model, anatomy, rows, device, most) for rows in (plan.train, plan.held))
        if root is not None:
            learned.inside(root)
            held.inside(root)
        return cls(recipe, settings, corpus, plan, model, anatomy, device, learned, held, ranks, root)

    @property
    def params(self) -> Mapping[str, nn.Parameter]:
        """All its numbers."""
        return dict(self.model.named_parameters())

    @cached_property
    def course(self) -> Course:
        """Its way through the rows."""
        from ctxtune.backend.newborn import matrices
        from ctxtune.engine.loop import Course

        train, turned = self.recipe.train, frozenset(matrices(self.model, self.anatomy))
        shares = shares_of(self.params, turned, self.anatomy, self.settings, train.optimizer)
        batches = Order(len(self.plan.train), train.batch, train.seed).epoch
        return Course(
            self.plan.steps, rate_of(train), batches, lambda step, epoch: shares, matrices=turned, alike=self._alike()
        )

    def _alike(self) -> Mapping[str, Alike]:
        """Its matrices that have a row for each token, with what tokens share."""
        from ctxtune.engine.alike import Alike

        if not spelled(self.settings, self.recipe.train):
            return {}
        alike = Alike(self.corpus.spelling, self.device.name)
        names = (f"{part}.weight" for part in (self.anatomy.embeddings[0], self.anatomy.head))
        return {name: alike for name in names if name in self.params}

    def score(self, most: int) -> dict[str, float]:
        """Loss in nats a token, and bits per byte, of what is held out: all of it, or rows spread over it of so many tokens."""
        from ctxtune.engine.shared import shared_losses

        every = math.ceil(self.corpus.held.counts.tokens / most)
        rows = range(0, len(self.plan.held), every)
        loss = math.fsum(shared_losses(self.held, rows, self.ranks)) / self.held.tokens(rows)
        bits = loss / math.log(2) / self.corpus.bytes_a_token
        return {"loss": loss, "bits_per_byte": bits, "tokens": self.held.tokens(rows)}

    def glance(self, say: Callable[[str], None]) -> dict[str, float]:
        """How it does by now, and what it would write."""
        told, tokenizer = self.score(GLANCE), self.corpus.tokenizer
        words = tokenizer.decode(self.held.write(tokenizer.eos_token_id, _WORDS, self.recipe.train.seed))
        say(f"{told['bits_per_byte']:.4f} bits per byte; it writes: {' '.join(words.split())}")
        return told

    @contextmanager
    def quick(self) -> Iterator[None]:
        """Meanwhile its layers are as quick as they can be without being compiled, if they are not."""
        from ctxtune.backend.fused import fused
        from ctxtune.backend.sharding import gathered

        if self.settings.compile == "on":
            yield
            return
        with ExitStack() as stack:
            with gathered(self.root or self.model):  # what computes the same is found with numbers that are whole
                stack.enter_context(fused(self.model, self.device))
            yield

    def compile(self) -> float:
        """Compile its layers, in as many seconds.

        Raises:
            CtxtuneError: that fails; it goes on without.
        """
        from ctxtune.backend.library import one_line

        begun = time.perf_counter()
        self.learned.compile()
        try:
            loss = self.learned.loss(self.learned.parts(self.course.batches(0)[0], self.recipe.train.micro_batch)[0])
            loss.backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever a compiler, or what it compiles with, comes upon
            raise CtxtuneError(f"torch.compile fails here: {one_line(error)}", "--set method.compile=off") from error
        for param in self.params.values():
            param.grad = None
        return self.ranks.first(lambda: time.perf_counter() - begun)

    def settled(self, say: Callable[[str], None]) -> tuple[Pupil, float | None]:
        """Compiled or not, as its settings say or as is sooner done, and the seconds of a step then, where they were measured.

        A run of few steps, or of less than WORTH seconds, is over before compiling could pay.
        """
        minutes = self.recipe.minutes
        if self.settings.compile == "on":
            self.compile()
            return self, self.pace() if minutes is not None else None
        plain = self._with("off")
        if minutes is None and (self.settings.compile == "off" or self.plan.steps < FEW):
            return plain, None
        with plain.quick():
            pace = plain.pace()
        lasts = minutes * 60 if minutes is not None else pace * self.plan.steps
        if self.settings.compile == "off" or lasts < WORTH:
            return plain, pace
        try:
            took = self.compile()
        except CtxtuneError as error:
            self.learned.plainly()
            say(f"{error}: it goes on without")
            return plain, pace
        quick = self.pace()
        pays = took + lasts * quick / pace < lasts
        say(f"compiled in {took:.0f} s, a step takes {quick / pace:.2f} of the time: {'on' if pays else 'off'}")
        if pays:
            return self._with("on"), quick
        self.learned.plainly()
        return plain, pace

    def _with(self, compiled: Literal["on", "off"]) -> Pupil:
        return replace(self, settings=self.settings.model_copy(update={"compile": compiled}))

    def pace(self) -> float:
        """Seconds of a step, its share of the evaluations included; at a rate of 0 nothing moves."""
        from ctxtune.engine.loop import take_step
        from ctxtune.engine.optimizer import make_optimizer
        from ctxtune.engine.shared import shared

        course, options, params = self.course, self.recipe.train, self.params
        optimizer, batches, took = make_optimizer(params, options, course.matrices, course.alike), course.batches(0), []
        pull = shared(self.learned, list(params.values()), self.ranks)
        for number in range(_PACED + 2):
            begun = time.perf_counter()
            take_step(list(params.values()), optimizer, pull, batches[number % len(batches)], 0.0, options)
            took.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        self.score(GLANCE)
        each = (time.perf_counter() - begun) / (options.eval_every or self.plan.per_epoch)
        return self.ranks.first(lambda: statistics.median(took[2:]) + each)

    def facts(self) -> dict[str, Any]:
        """What a result tells of it, however it did."""
        from ctxtune.backend.flop import flop_a_token, product_rate

        return {
            "device": self.device.reason, "dtype": self.device.type_name, "corpus": self.plan.facts(self.corpus),
            "parameters": sum(one.numel() for one in self.params.values()), "lr": rate_of(self.recipe.train),
            "flop_a_token": flop_a_token(self.model, self.anatomy, self.settings.row),
            "product_rate": product_rate(self.device),
        }  # fmt: skip
