"""What an adapter says of itself: the method, the recipe, the base it belongs to, and what it did to the model.

The manifest stands as JSON in the header of the adapter's safetensors file, so that the one file can be sent alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from dataclasses import dataclass, field
from typing import Any

from ctxtune import __version__
from ctxtune.errors import AdapterError
from ctxtune.recipe.plural import counted

FORMAT = 1


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class BaseModel:
    """The model the adapter was made on; `causal` is false for models trained by cloze."""

    name: str
    fingerprint: str
    causal: bool = True


@dataclass(frozen=True)
class Change:
    """The same numbers before and after the run; empty where they were not measured."""

    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """What stands before every text, and whose keys and values the adapter's tensors are, or become: demonstrations in their
    order, or virtual tokens that were learned."""

    instruction: str
    """stands before them"""
    texts: list[str]
    where: list[str]
    """the file and the line of each"""
    tokens: list[int]
    """what was read: `instruction` and `texts`, but for what the tokenizer joins to a question; virtual ones are below 0"""
    alone: bool
    """whether a question, made into tokens by itself, goes on behind them as in the whole text"""
    heads: int
    """of keys and values, in each layer"""
    layers: int
    calibrate: str
    """the name of the calibration, or none"""
    bias: dict[str, float]
    """what it comes to: nats that are added to log p of each choice"""
    begun: int = 0
    """of virtual tokens: how many tokens `texts` have, of which the first were what they started as; 0 if nobody counted"""
    among: bool = False
    """whether it was not the first, but of each layer those at which questions look most"""

    @property
    def front(self) -> str:
        """All that stands before a question."""
        return self.instruction + "".join(self.texts)

    @property
    def virtual(self) -> tuple[int, ...]:
        """The tokens, where they were learned and are none of the tokenizer's."""
        return tuple(self.tokens) if self.tokens and self.tokens[0] < 0 else ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about an adapter that its tensors do not tell."""

    method: str
    settings: dict[str, Any]
    """of the method, resolved"""
    recipe: str
    """the text of the resolved recipe"""
    base: BaseModel
    quant: str = "none"
    """how the base was quantised while the adapter was trained"""
    inputs: dict[str, str] = field(default_factory=dict)
    """name of an input -> hash of its content"""
    leaked: int = 0
    """how many of the rows that were scored stand among those that were learned from"""
    seed: int
    trainable: int
    """how many numbers were free to move"""
    classes: list[str] = field(default_factory=list)
    """what the adapter's own classifier tells apart, in the order of its logits; empty where the base has its own head"""
    shown: Shown | None = None
    """of an adapter from examples"""
    scores: Change = field(default_factory=Change)
    forgetting: Change = field(default_factory=Change)
    created: str = field(default_factory=_now)
    """UTC, ISO 8601"""
    version: str = __version__
    format: int = FORMAT

    @property
    def start(self) -> str | None:
        """What virtual tokens started as, in words; None where none were learned."""
        shown = self.shown
        if shown is None or not shown.virtual:
            return None
        if not shown.texts:
            init = self.settings.get("init")
            return {"zero": "zeros", "adapter": "an earlier prompt ended"}.get(str(init), "common words, drawn by lot")
        count, whole = len(shown.virtual), shown.begun
        if not whole:
            return "the texts below"
        if shown.among:
            return f"those {count:,} of {whole:,} tokens of the texts below at which questions look most, of each layer its own"
        first = f"the first {count:,} of {whole:,} tokens" if count < whole else f"the {counted(whole, 'token')}"
        return f"{first} of the texts below{', again and again' if count > whole else ''}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, nested as in the file."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """One line of JSON; NaN and infinities, which JSON lacks, are refused."""
        try:
            return json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise AdapterError(f"the manifest holds a number that is not finite: {error}") from error

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Manifest:
        """Check and take over what `header.manifest` read.

        Raises:
            AdapterError: a key is missing, unknown or of the wrong type, or the format is newer than this version's.
        """
        if fields.get("format") != FORMAT:
            raise AdapterError(
                f"the adapter's manifest has format {fields.get('format')!r}, and this ctxtune reads format {FORMAT}",
                "install the ctxtune that wrote it, or a newer one",
            )
        fields = {"classes": [], "shown": None, "leaked": 0, **fields}  # written before there were any
        _check("", fields, cls)
        for key in ("scores", "forgetting"):
            _check(f"{key}.", fields[key], Change)
        _check("base.", fields["base"], BaseModel)
        shown = fields["shown"]
        if isinstance(shown, dict):
            shown = fields["shown"] = {"begun": 0, "among": False, **shown}
        if shown is not None:
            _check("shown.", shown, Shown)
        parts = {
            "base": BaseModel(**fields["base"]),
            "shown": None if shown is None else Shown(**shown),
            "scores": Change(**fields["scores"]),
            "forgetting": Change(**fields["forgetting"]),
        }
        return cls(**{**fields, **parts})


TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool}
"""annotation -> type, as texts: this module's annotations are not evaluated"""
LISTS: dict[str, type] = {"list[str]": str, "list[int]": int}


def _check(prefix: str, fields: Any, kind: type) -> None:
    """Every field of the dataclass `kind` is there, has its type, and nothing else is."""
    if not isinstance(fields, dict):
        raise AdapterError(f"the adapter's manifest: {prefix.rstrip('.')} must be an object")
    known = {item.name: str(item.type) for item in dataclasses.fields(kind)}
    for name in [*known, *fields]:
        if (name in known) != (name in fields):
            fault = "missing" if name in known else "unknown"
            raise AdapterError(f"the adapter's manifest: {fault} key {prefix}{name}")
        if not _fits(fields[name], known[name]):
            raise AdapterError(f"the adapter's manifest: {prefix}{name} must be of type {known[name]}")


def _fits(value: Any, annotation: str) -> bool:
    if annotation in TYPES:
        return type(value) is TYPES[annotation]
    if annotation in LISTS:
        return isinstance(value, list) and all(type(item) is LISTS[annotation] for item in value)
    if not isinstance(value, dict):
        return value is None and annotation.endswith(" | None")
    if annotation == "dict[str, str]":
        return all(isinstance(item, str) for item in value.values())
    if annotation == "dict[str, float]":
        return all(type(item) in (int, float) and math.isfinite(item) for item in value.values())
    return True
