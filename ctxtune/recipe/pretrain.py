"""What a model that begins with nothing is made of: one dial, `depth`, sets the rest, and each may be set by itself."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ctxtune.recipe.section import Section, Text

WIDTH, HEAD = 32, 32
"""numbers of the states for each layer, and of each head of attention"""
PREVIOUS = 2
"""heads of each block that begin on one of the tokens just before, if as many others are left"""
STEP_TOKENS = 4096
"""tokens in a step of a model of NARROW numbers; a wider one takes more of them (nanochat: to the power of 0.383)"""
NARROW, MORE_TOKENS = 128, 0.383
EPOCHS = 4.0
"""passes over a corpus, at most, that teach nearly as much as new text does (Muennighoff et al. 2023)"""

MOST_LAYERS = 256
_SIZE = re.compile(r"[0-9]+(\.[0-9]+)?[kMG]?")

Size = Annotated[int, Field(ge=1, le=65_536)]


def _sized(text: str) -> str:
    if not _SIZE.fullmatch(text):
        raise ValueError(f"{text!r} is no size, write 300k, 3M or 1.5G")
    return text


class Pretrain(Section):
    """Pretraining: all numbers of a new model are learned, from text alone."""

    name: Literal["pretrain"] = Field(description="the name of the method")
    arch: Literal["llama", "qwen3", "gpt2", "neox"] = Field(
        "llama", description="the architecture, one of transformers: llama, qwen3, gpt2 or neox"
    )
    depth: Annotated[int, Field(ge=1, le=MOST_LAYERS)] = Field(4, description="layers; they set what is null below")
    params: Annotated[Text, AfterValidator(_sized)] | None = Field(
        None, description="numbers of the model, about, such as 3M; takes the place of depth"
    )
    width: Size | None = Field(None, description="numbers of the states; null is 32 a layer")
    heads: Size | None = Field(None, description="heads of attention; null is one for 32 numbers")
    previous_heads: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None,
        description="heads of a block that begin on the token before, the one before it, ...; null is 2 (llama), or 0",
    )
    feed_forward: Size | None = Field(
        None, description="inner numbers of a block; null is 8/3 of the width (llama, qwen3), or 4 times (gpt2, neox)"
    )
    row: Annotated[int, Field(ge=8, le=1_048_576)] = Field(256, description="the most tokens that are read at once")
    vocabulary: Annotated[int, Field(ge=257, le=1_000_000)] = Field(
        4096, description="tokens of the tokenizer that is learned from the corpus (byte-level BPE)"
    )
    tokenizer: Text | None = Field(
        None, description="a folder with a tokenizer, or its tokenizer.json; null learns one from the corpus"
    )
    tie: bool = Field(False, description="whether the head is the embedding of the tokens")
    spelling: bool | None = Field(
        None,
        description="whether tokens learn with those that are spelled like them; null is yes, but with schedule_free no",
    )
    duplicates: Literal["keep", "drop", "drop_near"] = Field(
        "keep",
        description="documents that stand there again: keep (and count), drop, or drop_near, those nearly alike too",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile of the layers, where rows are full: auto measures whether it pays, on or off"
    )
    minutes: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        None, description="how long it learns; takes the place of epochs: its first steps tell how many that is"
    )

    @property
    def states(self) -> int:
        """Numbers of the states."""
        return self.width or WIDTH * self.depth

    @property
    def attention_heads(self) -> int:
        """Heads of attention."""
        return self.heads or max(1, self.states // HEAD)

    @property
    def looking_back(self) -> int:
        """Heads of a block that begin on the token 1, 2, ... before."""
        if self.previous_heads is not None:
            return self.previous_heads
        return min(PREVIOUS, self.attention_heads // 2) if self.arch == "llama" else 0

    @property
    def inner(self) -> int:
        """Inner numbers of a block, a multiple of 8."""
        gated = self.arch in ("llama", "qwen3")
        return self.feed_forward or (self.states * 8 // 3 // 8 * 8 if gated else 4 * self.states)

    @model_validator(mode="before")
    @classmethod
    def _of_a_size(cls, given: Any) -> Any:
        """As many layers as make about so many numbers."""
        depth = depth_of(given) if isinstance(given, dict) else None
        if depth is None:
            return given
        if given.get("depth", depth) != depth:
            raise ValueError(
                f"params {given['params']} makes {depth} layers, depth is {given['depth']}: name one of them"
            )
        return {**given, "depth": depth}

    @model_validator(mode="after")
    def _heads_fit(self) -> "Pretrain":
        if self.states % (2 * self.attention_heads):
            told = "width" if self.width is not None else "heads"
            raise ValueError(
                f"{told}: {self.states} numbers cannot be shared by {self.attention_heads} heads, an even number to each"
            )
        if self.looking_back and self.arch != "llama":
            raise ValueError(
                f"previous_heads: {self.looking_back} heads of {self.arch} cannot, only llama's do, write 0"
            )
        if self.looking_back > self.attention_heads:
            raise ValueError(f"previous_heads: {self.looking_back}, but there are {self.attention_heads} heads")
        return self


def depth_of(method: dict[str, Any]) -> int | None:
    """Layers, each as wide as all of them make it, of a model of about `params` numbers; None where nobody says that.

    A block has 12 width^2 numbers in all four architectures, embeddings and head have a vector a token each.
    """
    said, vocabulary, width = method.get("params"), method.get("vocabulary", 4096), method.get("width")
    if not isinstance(said, str) or not _SIZE.fullmatch(said) or not isinstance(vocabulary, int):
        return None
    wanted = float(said.rstrip("kMG")) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(said[-1], 1)

    def numbers(depth: int) -> float:
        wide = width if isinstance(width, int) and width > 0 else WIDTH * depth
        return 12 * depth * wide**2 + (1 if method.get("tie") else 2) * max(vocabulary, 1) * wide

    return min(range(1, MOST_LAYERS + 1), key=lambda depth: abs(math.log(numbers(depth) / max(wanted, 1))))


def train_defaults(method: dict[str, Any]) -> dict[str, Any]:
    """How a new model is trained where nobody says: as what has been found for small ones."""
    row, width = method.get("row", 256), method.get("width")
    width = width or WIDTH * (method.get("depth") or depth_of(method) or 4)
    if not all(isinstance(one, int) and one > 0 for one in (row, width)):
        row, width = 256, NARROW  # the mistake is told elsewhere
    tokens = STEP_TOKENS * (width / NARROW) ** MORE_TOKENS
    batch = min(max(1, math.floor(tokens / row + 0.5)), 65_536)
    return {
        "optimizer": "muon", "epochs": EPOCHS, "batch": batch, "schedule": "linear", "warmup": 0.02, "weight_decay": 0.1,
    }  # fmt: skip
