"""The recipe as a type: every key, its meaning, its default and its bounds stand here, and nowhere else.

A recipe is data. All models are frozen and strict: an unknown key, a number in quotes or a not-a-number is an error;
only a whole number may stand where a fraction is wanted. `keys.py` reads this file to explain such errors.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ctxtune.recipe.data import CONTINUED, DOCUMENT, Data
from ctxtune.recipe.forget import Forget
from ctxtune.recipe.layers import checked
from ctxtune.recipe.mask import Mask
from ctxtune.recipe.pretrain import Pretrain, train_defaults
from ctxtune.recipe.section import Rows, Section, Steps, Text
from ctxtune.recipe.start import check_before_text, check_goes, start_of
from ctxtune.recipe.written import Generation, Score

REPLAYED_SEED = 1234  # of lm-evaluation-harness, for what it draws
SCRATCH = "scratch"  # the model of a recipe that makes one

Share = Annotated[float, Field(gt=0, le=1_000_000)]


class Freeze(Section):
    """Layer-wise tuning: the named layers move, the others are frozen."""

    name: Literal["freeze"] = Field(description="the name of the method")
    layers: Annotated[Text, AfterValidator(checked)] = Field(
        "last:4", description="what is trained, such as last:4, first:2, 10-19, last:4+norms, all; auto chooses"
    )
    lr_decay: float = Field(1.0, gt=0, le=1, description="the rate of a layer as a share of the next higher one's")
    unfreeze: Literal["at_once", "gradual"] = Field(
        "at_once", description="all layers from the start (at_once), or one more from the top each epoch (gradual)"
    )
    sample: Annotated[int, Field(ge=1, le=65_536)] | None = Field(
        None, description="layers that move at a time, drawn by lot; null is all of them"
    )
    sample_every: Steps = Field(20, description="steps after which they are drawn again")

    @model_validator(mode="after")
    def _one_order(self) -> "Freeze":
        if self.sample is not None and self.unfreeze == "gradual":
            raise ValueError(f"sample {self.sample} and unfreeze gradual are two orders; choose one")
        return self


_SHOTS = "demonstrations: before each question, or what virtual tokens start from"


class Prompt(Section):
    """Prompt tuning: virtual tokens that stand before or behind every text are learned, and no weight moves."""

    name: Literal["prompt"] = Field(description="the name of the method")
    kind: Literal["prefix", "input", "residual", "ptuning", "suffix"] = Field(
        "prefix",
        description="keys and values (prefix), or vectors before (input, residual, ptuning) or behind (suffix) the input",
    )
    tokens: Literal["auto"] | Annotated[int, Field(ge=1, le=65_536)] = Field(
        "auto", description="virtual tokens; auto is as many as they start from, at most 32 where they are distilled"
    )
    init: Annotated[Text, AfterValidator(start_of)] = Field(
        "auto",
        description="the start: fewshot (demonstrations), prompt (its end), text:..., labels, vocab, zero, adapter",
    )
    adapters: list[Text] = Field([], description="learned prompts to start from; of several the nearest is taken")
    shots: int = Field(8, ge=1, le=65_536, description=_SHOTS)
    top: Annotated[int, Field(ge=1, le=65_536)] | None = Field(
        None, description="prefix: layers, from the top, that learn; what lies below keeps its start; null is all"
    )
    distill_from: Literal["fewshot"] | None = Field(
        None,
        description="whose answers are learned, no label is: fewshot, the model's behind demonstrations; null: labels",
    )

    @model_validator(mode="after")
    def _fitting(self) -> "Prompt":
        check_goes(self.init, self.kind, self.adapters)
        if self.top is not None and self.kind != "prefix":
            raise ValueError(f"top {self.top} names layers of a prefix, kind {self.kind} has vectors instead")
        return self


class Fewshot(Section):
    """In-context learning: examples stand before the question, and no weight moves."""

    name: Literal["fewshot"] = Field(description="the name of the method")
    replay: Literal["lm-eval"] | None = Field(
        None, description="lm-eval: draw and write as lm-evaluation-harness 0.4 does, select random or fixed, seed 1234"
    )
    one_more: Literal["auto"] | bool = Field(
        "auto", description="replay: draw one more, leave the question itself out; auto: where it is of the same file"
    )
    chat: bool = Field(
        False, description="whether demonstrations and question are turns of a chat, by the model's template"
    )
    shots: int = Field(8, ge=0, le=65_536, description=_SHOTS)
    select: Literal["fixed", "random", "balanced", "bm25", "knn", "mmr", "cluster", "influence"] = Field(
        "balanced",
        description="fixed (the first), random, balanced, influence; by question: bm25, knn, mmr; cluster (of them)",
    )
    order: Literal["auto", "as-is", "near-last", "global-e", "best"] = Field(
        "auto",
        description="as-is, near-last (auto where rows are near), global-e (most even answers), best (least loss)",
    )
    clusters: Annotated[int, Field(ge=1, le=65_536)] = Field(
        8, description="cluster: how many, at most; each has demonstrations of its own"
    )
    candidates: Rows = Field(64, description="influence: training rows that are tried, drawn by lot")
    held_out: Rows = Field(
        32, description="training rows on which influence, orders global-e and best, and prior auto are tried"
    )
    mmr_lambda: float = Field(
        0.6,
        ge=0,
        le=1,
        description="mmr: the weight of being near the question; the rest is that of being unlike the others",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="the start of all chance in the selection")
    seeds: int = Field(1, ge=1, le=1000, description="draws of demonstrations, by this many seeds from seed on")
    calibrate: Literal["none", "contextual", "domain", "batch", "pmi", "channel"] = Field(
        "none", description="what acc goes by, against what the model prefers: contextual, domain, batch, pmi, channel"
    )
    prior: Annotated[list[Share], Field(min_length=2)] | Literal["auto"] | None = Field(
        None, description="shares of the choices among the rows, in their order; auto estimates them, null is even"
    )

    @model_validator(mode="before")
    @classmethod
    def _replayed(cls, given: Any) -> Any:
        """What is replayed is drawn as it is there, where nothing else is asked for."""
        replayed = isinstance(given, dict) and given.get("replay") is not None
        return {"select": "random", "seed": REPLAYED_SEED, **given} if replayed else given

    @model_validator(mode="after")
    def _replay_fits(self) -> "Fewshot":
        if self.replay is None:
            if self.one_more != "auto":
                raise ValueError("one_more is a rule of what is replayed: name that too, replay: lm-eval")
            return self
        if self.select not in ("random", "fixed"):
            raise ValueError(f"replay {self.replay} knows select random and fixed (its first_n), not {self.select}")
        if self.order not in ("auto", "as-is"):
            raise ValueError(
                f"replay {self.replay} leaves demonstrations as they are drawn, order {self.order} does not"
            )
        return self

    @model_validator(mode="after")
    def _prior_of_what(self) -> "Fewshot":
        if self.prior is not None and self.calibrate == "none":
            raise ValueError("prior takes the place of the model's own preference, which calibrate none leaves in")
        return self

    @model_validator(mode="after")
    def _order_fits(self) -> "Fewshot":
        if self.order == "near-last" and not self.near:
            raise ValueError(f"order near-last asks for what is near, select {self.select} does not")
        if self.on_trial and self.near:
            raise ValueError(f"order {self.order} is tried for all questions, select {self.select} chooses for each")
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> "Fewshot":
        by_lot = self.on_trial or self.select in ("random", "balanced", "cluster", "influence")
        if self.seeds > 1 and not by_lot:
            raise ValueError(
                f"seeds {self.seeds} asks for several draws, select {self.select} leaves nothing to chance"
            )
        return self

    def drawn(self, seed: int) -> "Fewshot":
        """The settings of one draw."""
        return self.model_copy(update={"seed": seed, "seeds": 1})

    @property
    def near(self) -> bool:
        """Whether demonstrations are those near the question."""
        return self.select in ("bm25", "knn", "mmr", "cluster")

    @property
    def by_question(self) -> bool:
        """Whether each question has demonstrations of its own."""
        return self.near or (self.replay is not None and self.select == "random")

    @property
    def on_trial(self) -> bool:
        """Whether the order is that which does best on held-out rows."""
        return self.order in ("global-e", "best")

    @property
    def near_last(self) -> bool:
        """Whether the nearest demonstration stands last."""
        return self.near and self.order != "as-is"


# One more method is one more class.
Method = Annotated[Freeze | Mask | Prompt | Fewshot | Pretrain, Field(discriminator="name")]


class Train(Section):
    """How long, how fast and in what order the loop runs."""

    epochs: float = Field(3.0, gt=0, le=100_000, description="passes over the training rows; a part of one is fine")
    steps: Steps | None = Field(None, description="optimiser steps; takes the place of epochs")
    batch: Rows = Field(32, description="examples in one optimiser step")
    micro_batch: Rows | None = Field(None, description="examples in memory at once; null is as many as fit")
    pack: bool = Field(
        False, description="whether short examples share a row of tokens, none seeing another; the losses stay the same"
    )
    lr: Literal["auto", "transfer"] | Annotated[float, Field(gt=0, le=100)] = Field(
        "auto",
        description="the highest rate; auto: tried before the run, or known (pretrain); transfer: tried by a narrow one",
    )
    optimizer: Literal["adamw", "muon", "schedule_free"] = Field(
        "adamw",
        description="adamw; muon for matrices, the default of pretrain; or schedule_free, adamw whose steps are averaged",
    )
    schedule: Literal["linear", "cosine", "constant", "wsd"] = Field(
        "linear", description="how the rate falls after the warm-up: linear, cosine, constant or wsd"
    )
    warmup: float = Field(0.06, ge=0, le=1, description="the share of the steps in which the rate rises")
    weight_decay: float = Field(0.0, ge=0, le=10, description="AdamW's decoupled weight decay")
    clip: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        1.0, description="the highest norm of the gradient; null is no clipping"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="the start of all chance; equal seeds give equal numbers")
    eval_every: Steps | None = Field(None, description="steps between evaluations; null is once an epoch")
    save_every: Steps | None = Field(None, description="steps between checkpoints; null is about once a minute")
    patience: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="evaluations without improvement before the run stops; null is never"
    )

    @model_validator(mode="after")
    def _schedule_fits(self) -> "Train":
        if self.optimizer == "schedule_free" and self.schedule != "constant":
            raise ValueError(f"schedule {self.schedule}: the rate of optimizer schedule_free is constant")
        return self

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> "Train":
        if self.micro_batch is not None and self.micro_batch > self.batch:
            raise ValueError(f"micro_batch {self.micro_batch} is larger than batch {self.batch}")
        return self


class Recipe(Section):
    """A ctxtune recipe: one model, one method, one run."""

    ctxtune: Literal[1] = Field(1, description="version of this format")
    model: Text = Field(description="a folder, a .gguf file, or a name from `ctxtune model list`; pretrain: scratch")
    quant: Literal["none", "int8", "nf4", "fp4"] = Field(
        "none", description="how frozen linear layers are stored: none, int8, nf4 or fp4"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where it runs: auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="what it computes in: float32, bfloat16, float16; auto is what is fast there, what trains is float32",
    )
    data: Data = Field(Data(), description="what is read")
    method: Method = Field(description="what may move")
    train: Train = Field(Train(), description="how it is trained")
    forget: Forget = Field(Forget(), description="what forgetting is measured on, and how much is allowed")
    generate: Generation = Field(Generation(), description="how text is written")
    score: Score = Field(Score(), description="what free answers are scored by")
    cache: Literal["auto", "memory", "disk", "off"] = Field(
        "auto", description="where what frozen layers and demonstrations said is kept: auto, memory, disk or off"
    )
    out: Text | None = Field(None, description="the run's folder; null is a new one below runs/, and of fewshot none")
    inputs: dict[Annotated[str, Field(min_length=1, max_length=64)], Text] | None = Field(
        None, description="sha256 of what was read; written by a run"
    )

    @property
    def minutes(self) -> float | None:
        """How long it learns, where that decides its steps."""
        return self.method.minutes if isinstance(self.method, Pretrain) and self.train.steps is None else None

    @model_validator(mode="before")
    @classmethod
    def _where_nobody_says(cls, given: Any) -> Any:
        """A model that is made needs no name; it, and one that goes on learning text, are trained in ways of their own."""
        method = given.get("method") if isinstance(given, dict) else None
        if not isinstance(method, dict):
            return given
        data, train = ({} if given.get(key) is None else given[key] for key in ("data", "train"))
        if not isinstance(data, dict) or not isinstance(train, dict):
            return given
        if train.get("optimizer") == "schedule_free":
            train = {"schedule": "constant", **train}
        if method.get("name") == "pretrain":
            text = DOCUMENT if data.get("text") is None else data["text"]
            return {
                "model": SCRATCH, **given, "data": {**data, "text": text}, "train": {**train_defaults(method), **train},
            }  # fmt: skip
        return {**given, "train": {**(CONTINUED if data.get("text") is not None else {}), **train}}

    @model_validator(mode="after")
    def _made_for(self) -> "Recipe":
        makes = isinstance(self.method, Pretrain)
        if makes != (self.model == SCRATCH):
            raise ValueError(
                f"model {self.model}: method pretrain makes a model of its own, which is called {SCRATCH}"
                if makes
                else f"model {SCRATCH} is what method pretrain begins with"
            )
        if self.train.optimizer == "muon" and not makes:
            raise ValueError("optimizer muon is for whole models: `ctxtune pretrain`")
        if self.train.lr == "transfer" and not makes:
            raise ValueError("lr transfer is from a narrow model to a wide one: `ctxtune pretrain`")
        if self.train.optimizer == "schedule_free" and isinstance(self.method, Pretrain) and self.method.spelling:
            raise ValueError("method.spelling true does not go with optimizer schedule_free, leave it out")
        if self.train.optimizer == "schedule_free" and isinstance(self.method, Mask | Fewshot):
            raise ValueError(f"optimizer schedule_free is for pretrain, freeze and prompt, not for {self.method.name}")
        return self

    @model_validator(mode="after")
    def _learns_text(self) -> "Recipe":
        if self.data.text is None:
            return self
        if isinstance(self.method, Fewshot):
            raise ValueError("text is learned as it runs, and method fewshot learns nothing")
        if isinstance(self.method, Prompt):
            check_before_text(self.method.init, self.method.kind, self.method.distill_from)
        return self


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, with which editors complete and check it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
