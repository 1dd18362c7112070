"""How a model writes, and what of it is scored."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ctxtune.recipe.pattern import compiled
from ctxtune.recipe.section import Section, Template, Text

StopText = Annotated[str, Field(min_length=1, max_length=1000)]


class Generation(Section):
    """How text is written: how a token is chosen, and when the text ends."""

    max_tokens: Annotated[int, Field(ge=1, le=16_777_216)] = Field(64, description="the most tokens of one answer")
    temperature: float = Field(0.0, ge=0, le=1000, description="how evenly tokens are drawn; 0 takes the likeliest one")
    top_p: float = Field(1.0, gt=0, le=1, description="draw among the likeliest tokens that have this share together")
    top_k: int = Field(0, ge=0, le=16_777_216, description="draw among this many of the likeliest tokens; 0 is all")
    min_p: float = Field(
        0.0, ge=0, le=1, description="draw among tokens at least this likely, compared with the likeliest"
    )
    repetition_penalty: float = Field(
        1.0, gt=0, le=100, description="divides the logits of tokens that stand in the text; 1 is none"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="the start of all chance in sampling")
    stop: list[StopText] = Field([], max_length=64, description="texts before which an answer ends")
    chat: bool | None = Field(
        None,
        description="whether a prompt is a user's turn in the tokenizer's chat template; null is as it was trained",
    )
    system: Text | None = Field(None, description="the system's turn before a chat")


class Score(Section):
    """What free answers are scored by."""

    metric: Literal["likelihood", "exact", "f1", "number", "bleu", "chrf", "rouge"] = Field(
        "likelihood",
        description="likelihood of the answer, or of what the model writes: exact, f1, number, bleu, chrf, rouge",
    )
    extract: Annotated[Text, AfterValidator(compiled)] | None = Field(
        None, description="regular expression: its last match in what is written, or that's first group, is the answer"
    )
    references: Template | None = Field(
        None, description="{{ a field }} that lists all accepted answers; null is the answer alone"
    )
    tokenize: Literal["auto", "13a", "intl", "zh", "char", "none"] = Field(
        "auto",
        description="words of bleu and rouge: sacrebleu's 13a, intl, zh, char, none; auto: 13a, rouge-score's own",
    )
    stem: bool = Field(False, description="rouge: whether English words are cut to their stems (Porter)")

    @model_validator(mode="after")
    def _stems_of_words(self) -> "Score":
        if self.stem and self.tokenize != "auto":
            raise ValueError(f"stem cuts the words of tokenize auto, not those of {self.tokenize}")
        return self
