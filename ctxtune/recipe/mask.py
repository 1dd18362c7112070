"""The settings of mask tuning."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ctxtune.recipe.layers import read_layers
from ctxtune.recipe.section import Section, Text


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


class Mask(Section):
    """Parameter-wise tuning: a few numbers of the weights move, chosen one by one or by rows, columns or blocks."""

    name: Literal["mask"] = Field(description="the name of the method")
    layers: Annotated[Text, AfterValidator(_layers)] = Field(
        "all", description="where numbers are chosen: all (linear layers of all blocks), last:4, 10-19, last:4.mlp, ..."
    )
    select: Literal["random", "magnitude", "lift", "bias", "norms"] = Field(
        "random",
        description="which numbers move: random, magnitude or lift (the largest, of low rank), or all bias or norms",
    )
    shape: Literal["columns", "rows", "blocks", "entries"] = Field(
        "columns", description="what is chosen: columns (all weights of an input), rows (of an output), blocks, entries"
    )
    density: Annotated[float, BeforeValidator(_share), Field(gt=0, le=1)] = Field(
        0.01, description="the share of the weights there that moves, such as 0.01 or 1%"
    )
    budget: Annotated[int, Field(ge=1, le=2**40)] | None = Field(
        None, description="how many numbers move, about; takes the place of density"
    )
    rank: Annotated[int, Field(ge=1, le=65_536)] = Field(
        32, description="lift: the rank of the approximation of each weight whose largest numbers move"
    )
    stored: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="how changes are written; at the end they are rounded to it, and then scored"
    )

    @model_validator(mode="after")
    def _whole_kinds(self) -> "Mask":
        if self.select in ("bias", "norms") and self.shape != "columns":
            raise ValueError(f"select {self.select} takes all of them, shape {self.shape} chooses among weights")
        return self
