"""The settings of mask tuning."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ctxtune.errors import RecipeError
from ctxtune.recipe.layers import read_layers
from ctxtune.recipe.section import Rows, Section, Steps, Text


def _layers(layers: str) -> str:
    read_layers(layers)
    return layers


def _share(density: object) -> object:
    """`1%` is 0.01."""
    if isinstance(density, str) and density.endswith("%"):
        try:
            return float(density[:-1]) / 100
        except ValueError:
            return density
    return density


Cost = Annotated[float, Field(ge=0, le=1e9)]

BY_LOSS = ("contrast", "fisher", "snip", "movement", "grad")
"""choices for which training rows are read"""
AUTO = "auto"
EWC = 100.0
"""what changes cost by themselves where it is known what the base minds"""
RANKED = ("magnitude", "lift", *BY_LOSS)
"""choices by what speaks for each unit"""
FILE = "file:"
_JOINED = {" + ": "union", " & ": "intersection", " - ": "difference"}
"""how masks are written one behind the other on a command line -> what is taken of them"""
READ_BY = {
    "rank": ("lift",), "score_batches": (AUTO, *BY_LOSS), "score_rows": (AUTO, *BY_LOSS),
    "regrow": ("grad",), "regrow_every": ("grad",),
    "regrow_batches": ("grad",), "candidates": ("l0",), "decide": ("l0",), "combine": ("file",),
}  # fmt: skip
"""key -> the choices in which it plays a part"""


def masks_of(select: str | None) -> tuple[str | None, list[str] | None, str | None]:
    """The name of a choice on a command line, the masks that it names, and what is taken of several.

    Raises:
        RecipeError: it asks for two things at once.
    """
    if select is None or not select.startswith(FILE):
        return select, None, None
    text = select.removeprefix(FILE)
    found = [sign for sign in _JOINED if sign in text]
    if len(found) > 1:
        raise RecipeError(
            f"--select {select}: '{found[0].strip()}' and '{found[1].strip()}' are two steps",
            "write what the first gives to a file, `ctxtune mask --choose-only --out FILE`, and name that",
        )
    paths = text.split(found[0]) if found else [text]
    return FILE[:-1], [path.strip() for path in paths], _JOINED[found[0]] if found else None


class Mask(Section):
    """Parameter-wise tuning: a few numbers of the weights move, chosen one by one or by rows, columns or blocks."""

    name: Literal["mask"] = Field(description="the name of the method")
    layers: Annotated[Text, AfterValidator(_layers)] = Field(
        "all", description="where numbers are chosen: all (linear layers of all blocks), last:4, 10-19, last:4.mlp, ..."
    )
    learn: Literal["changes", "bits"] = Field(
        "changes", description="changes of the numbers chosen, or bits: which weights of the layers stay, others are 0"
    )
    select: Literal[
        "auto",
        "random",
        "magnitude",
        "lift",
        "contrast",
        "fisher",
        "snip",
        "movement",
        "grad",
        "l0",
        "bias",
        "norms",
        "file",
    ] = Field(
        "auto",
        description="auto, random; magnitude, lift; contrast, fisher, snip, movement, grad; l0; bias, norms; file",
    )
    shape: Literal["columns", "rows", "blocks", "entries"] = Field(
        "columns", description="what is chosen: columns (all weights of an input), rows (of an output), blocks, entries"
    )
    density: Annotated[float, Field(gt=0, le=1), BeforeValidator(_share)] = Field(
        0.01, description="the share of the weights there that moves, such as 0.01 or 1%"
    )
    budget: Annotated[int, Field(ge=1, le=2**40)] | None = Field(
        None, description="how many numbers move, about; takes the place of density"
    )
    rank: Annotated[int, Field(ge=1, le=65_536)] = Field(
        32, description="lift: the rank of the approximation of each weight whose largest numbers move"
    )
    score_batches: Rows = Field(32, description="by gradient: batches, the run's first, that are read to choose")
    score_rows: Rows | None = Field(
        4, description="by gradient: rows in each of these; null is those of a step, 1 is each row by itself"
    )
    regrow: float = Field(
        0.2,
        ge=0,
        le=1,
        description="grad: the share of each tensor's units that give way to others, less and less of it",
    )
    regrow_every: Steps = Field(20, description="grad: steps after which they do")
    regrow_batches: Rows = Field(4, description="grad: batches, the next ones, whose gradients choose the others")
    candidates: Annotated[float, Field(gt=0, le=1), BeforeValidator(_share)] | None = Field(
        None, description="l0: the share of the weights that gates choose from, by lot; null is 10 times the density"
    )
    decide: float = Field(0.5, gt=0, le=1, description="l0: the share of the steps after which the gates have decided")
    masks: list[Text] = Field([], description="file: masks, or adapters that hold one, whose numbers move")
    combine: Literal["union", "intersection", "difference"] = Field(
        "union",
        description="file: of several masks their union, intersection or difference (of the first from the others)",
    )
    l2: Cost = Field(0.0, description="what half the square of each change costs beside the loss (L2-SP); 0 is nothing")
    l1: Cost = Field(0.0, description="what the size of each change costs beside the loss; those not worth it become 0")
    ewc: Literal["auto"] | Cost = Field(
        "auto",
        description="what changes cost by how much the base minds them on forget.text (EWC); auto: 100 by contrast",
    )
    control: bool = Field(
        False, description="whether a random mask of the same size is trained too, and the result compared with it"
    )
    stored: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="how changes are written; at the end they are rounded to it, and then scored"
    )

    @property
    def reads_text(self) -> bool:
        """Whether `forget.text` tells what to choose, or what a change costs."""
        return self.price > 0 or self.select == "contrast" or (self.select == AUTO and self.learn == "changes")

    @property
    def price(self) -> float:
        """What a change costs by how much the base minds it; by itself where a choice by contrast has read that anyway."""
        if not isinstance(self.ewc, str):
            return self.ewc
        return EWC if self.learn == "changes" and self.select in (AUTO, "contrast") else 0.0

    def of_base(self, kind: str) -> "Mask":
        """These settings for a base of that kind (backend/anatomy.py), where it is known what each `auto` is."""
        by_lot = self.learn == "bits" or kind == "classifier"
        by_itself = {"select": "random" if by_lot else "contrast"} if self.select == AUTO else {}
        chosen = self.model_copy(update=by_itself)
        return chosen.model_copy(update={"ewc": chosen.price})

    @model_validator(mode="after")
    def _bits_alone(self) -> "Mask":
        for key in ("select", "shape", "density", "budget", "l2", "l1", "ewc", "stored", "control"):
            value, field = getattr(self, key), type(self).model_fields[key]
            if self.learn == "bits" and value != field.default:
                raise ValueError(
                    f"learn bits learns one for each weight of the layers: {key} {value} has no part in it"
                )
        return self

    @model_validator(mode="after")
    def _whole_kinds(self) -> "Mask":
        if (self.select == "file") != bool(self.masks):
            raise ValueError("select file takes the numbers of masks: name both, on a command line --select file:PATH")
        if self.select == "grad" and self.price:
            raise ValueError(
                "select grad moves others as it goes on, ewc knows those of the start alone: --l2 in its place"
            )
        if self.select == "l0" and (self.l2 or self.l1 or self.price):
            raise ValueError("select l0 says how many changes stay: l2, l1 and ewc are for the run of a mask that does")
        if self.select == "random" and self.control:
            raise ValueError("control is a random mask beside the chosen one, and select random is one itself")
        if self.select in ("bias", "norms", "file"):
            told = "takes what its masks say" if self.select == "file" else "takes all of them"
            if self.shape != "columns":
                raise ValueError(f"select {self.select} {told}, shape {self.shape} chooses among weights")
            if self.budget is not None:
                raise ValueError(f"select {self.select} {told}, budget {self.budget} chooses among weights")
        if self.select == "file" and self.layers != "all":
            raise ValueError(f"select file takes what its masks say, layers {self.layers} chooses anew")
        return self

    def unused(self) -> Iterator[str]:
        """The keys that say something, and play no part in what is chosen."""
        alone = self.select in ("bias", "norms", "file")
        reasons = {key: None if self.select in selects else f"select {self.select}" for key, selects in READ_BY.items()}
        if self.learn == "bits":
            reasons = dict.fromkeys(READ_BY, "learn bits")
        reasons["density"] = f"select {self.select}" if alone else "budget says how many" if self.budget else None
        for key, reason in reasons.items():
            value, field = getattr(self, key), type(self).model_fields[key]
            if reason is not None and value != field.default:
                yield f"method.{key} {value} is not used: {reason}"
