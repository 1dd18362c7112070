"""What a run reads, and how a row becomes a prompt with an answer, a chat, or running text."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from ctxtune.recipe.section import Section, Template, Text

DOCUMENT = "{{ text }}"
"""the template of a document of a model that is made from nothing, and of text that is replayed"""
WINDOW = 512
"""tokens of a text that are read together where nobody says"""
CONTINUED: dict[str, Any] = {"epochs": 1.0, "batch": 16, "schedule": "cosine"}
"""how a model goes on learning text where nobody says: the rate rises once more and falls again, in one pass (Ibrahim et al.
2024, "Simple and Scalable Strategies to Continually Pre-train Large Language Models")"""
REPLAYED = 0.05
"""the share of other text that keeps much of what the base knew of it, where the new one is not far from it (the same)"""

_ASKED = ("prompt", "answer", "choices", "instruction")


def _distinct(texts: list[str]) -> list[str]:
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            raise ValueError(f"{text!r} stands there twice")
        seen.add(text)
    return texts


class Part(Section):
    """One of several files to learn from."""

    path: Text = Field(description="the file or folder")
    weight: float = Field(1.0, gt=0, le=1000, description="passes over it in an epoch; 0.5: another half each time")


def _parts(train: object) -> object:
    """Check a list part by part, so that a mistake in one is said of that one."""
    for number, part in enumerate(train if isinstance(train, list) else [], 1):
        if part == "-":
            raise ValueError("- is standard input and stands alone")
        try:
            Part.model_validate({"path": part} if isinstance(part, str) else part)
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            key = "".join(f"{name}: " for name in detail["loc"] if not isinstance(part, str))
            raise ValueError(f"item {number}: {key}{detail['msg'].lower()}") from error
    return train


def replay_of(said: str | None) -> tuple[str | None, float | None]:
    """The file and the share of `FILE:5%` on a command line; what has no share is all a file."""
    path, _, share = (said or "").rpartition(":")
    try:
        value = float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
    except ValueError:
        return said, None
    return (path, value) if path else (said, None)


class Data(Section):
    """What the model reads, and how a row becomes a prompt and an answer."""

    train: Annotated[Text | Annotated[list[Text | Part], Field(min_length=1)] | None, BeforeValidator(_parts)] = Field(
        None,
        description="learn from: jsonl, json, csv, tsv, txt (.gz, .zst), parquet, folder, hub:owner/name, a list, or -",
    )
    eval: Text | None = Field(None, description="rows to score on; never learned from")
    prompt: str = Field("{{ prompt }}", description="Jinja template of the prompt; the fields of a row are its names")
    answer: Text = Field("{{ answer }}", description="Jinja template of the answer; only the answer is learned")
    text: Template | None = Field(
        None, description="running text, in place of prompt and answer: template of a document; a .txt is one, whole"
    )
    held_out: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="text: the share at the end of each file that is scored, where eval names nothing",
    )
    replay: Text | None = Field(None, description="text: other text of which a part is learned beside it in every step")
    replay_share: float = Field(REPLAYED, gt=0, le=0.9, description="replay: its share of the tokens that are learned")
    choices: Annotated[list[Text], Field(min_length=2), AfterValidator(_distinct)] | Template | None = Field(
        None, description="the possible answers, or {{ a field }} that lists a row's own; null is free text"
    )
    messages: Text | None = Field(
        None, description="chat rows: the field, or {{ template }}, of the list of messages; replaces prompt and answer"
    )
    tools: Text | None = Field(
        None, description="the field, or {{ template }}, of the tools that may be called in a chat"
    )
    learn: Literal["all", "last"] = Field("all", description="which of the assistant's turns are learned: all or last")
    delimiter: str = Field(" ", description="stands between prompt and answer; belongs to neither")
    separator: str = Field("\n\n", description="stands behind each demonstration")
    instruction: str = Field("", description="stands before every prompt")
    max_length: Annotated[int, Field(ge=2, le=16_777_216)] | None = Field(
        None, description="the most tokens in one example; null is what the model can read, of running text 512"
    )
    on_long: Literal["error", "drop", "truncate"] = Field(
        "error", description="what happens to longer examples: error, drop or truncate (the prompt, from its start)"
    )

    @model_validator(mode="after")
    def _one_form_of_rows(self) -> "Data":
        if self.tools is not None and self.messages is None:
            raise ValueError("tools are called in a chat: name its messages too")
        if self.replay is not None and self.text is None:
            raise ValueError("replay is learned beside running text: name that too, text: '{{ a field }}'")
        for form, others in (("text", ("messages", *_ASKED, "on_long")), ("messages", _ASKED)):
            for key in others if getattr(self, form) is not None else ():
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} has no place beside {form}: a row is that alone")
        return self

    @property
    def scored(self) -> bool:
        """Whether there is something to score: rows, or the end of a running text."""
        return self.eval is not None or (self.text is not None and self.held_out > 0)
