"""A small grammar of questions and instructions, made of the recipe's own prompt and choices.

A prompt is taken apart into   head {{ fields }} tail,   the head's last word before a colon names what is read, the tail's
what is asked for: `Review: {{ text }}\nSentiment:` is a review and its sentiment. What is not of that kind (no field, or
blocks of Jinja) keeps its one form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIELD = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_NAME = re.compile(r"(\w[\w ]*?)\s*[:：]\s*$")
_PLAIN = re.compile(r"\{\{-?\s*(\w+)")
_MOST = 12  # choices that a sentence lists


@dataclass(frozen=True)
class Parts:
    """A prompt taken apart; `one` is whether a single field is read, `end` the white space that the prompt ends with."""

    head: str
    fields: str
    tail: str
    end: str
    one: bool

    @property
    def thing(self) -> str:
        """What is read, in a word."""
        named = _NAME.search(self.head) if self.one else None
        field = _PLAIN.match(self.fields) if self.one else None
        return named[1].lower() if named else field[1].replace("_", " ") if field else "text"

    @property
    def asked(self) -> str:
        """What is asked for, in a word."""
        named = _NAME.search(self.tail)
        return named[1].strip().lower() if named else "answer"


def parts_of(prompt: str) -> Parts | None:
    """The parts of a prompt, None where it has another form."""
    found = list(_FIELD.finditer(prompt))
    if not found or "{%" in prompt or "{#" in prompt:
        return None
    first, last = found[0].start(), found[-1].end()
    tail = prompt[last:]
    end = tail[len(tail.rstrip()) :]
    return Parts(prompt[:first], prompt[first:last], tail.rstrip(), end, len(found) == 1)


def listed(choices: Sequence[str]) -> str | None:
    """The choices in a sentence: `a, b or c`; None where they are too many, or a template would read something in them."""
    if not 2 <= len(choices) <= _MOST or any(mark in one for one in choices for mark in ("{{", "{%", "{#")):
        return None
    *first, last = choices
    return f"{', '.join(first)} or {last}"


def forms(prompt: str, choices: Sequence[str]) -> list[str]:
    """Ways to ask the same, the prompt itself first."""
    parts = parts_of(prompt)
    if parts is None:
        return [prompt]
    either, thing, asked = listed(choices), parts.thing, parts.asked
    body = parts.head + parts.fields
    found = [f"{body}\nAnswer:", f"{body}\nThe {asked} of this {thing} is"]
    if either is not None:
        found += [f"{body}\nIs this {either}?\nAnswer:", f"{body}\nQuestion: What is the {asked}, {either}?\nAnswer:"]
        found.append(f"{body}\n{asked.capitalize()} ({either}):")
    if parts.one:
        found += [f"{parts.fields}{parts.tail}", f'"{parts.fields}"{parts.tail}', f"Input: {parts.fields}\nOutput:"]
        found += [f"Text: {parts.fields}\nLabel:", f'"{parts.fields}"\nThe {asked} of this {thing} is']
    return list(dict.fromkeys([prompt, *(form + parts.end for form in found)]))


def instructions(prompt: str, choices: Sequence[str], behind: str) -> list[str]:
    """Sentences that say what is to be done, with what stands `behind` each."""
    parts = parts_of(prompt)
    thing, asked = (parts.thing, parts.asked) if parts is not None else ("text", "answer")
    either = listed(choices)
    if either is None:
        found = [
            f"Give the {asked} of the {thing}.",
            f"Read the {thing} and give its {asked}.",
            f"Each {thing} is followed by its {asked}.",
        ]
    else:
        found = [
            f"Is the {thing} {either}?",
            f"Classify the {thing} as {either}.",
            f"What is the {asked} of the {thing}: {either}?",
            f"Read the {thing}, and give its {asked}: {either}.",
            f"The {asked} of each {thing} is {either}.",
            f"Each {thing} is followed by its {asked}, which is {either}.",
            f"You know well how to tell the {asked} of a {thing}. Answer with {either}, and with nothing else.",
        ]
    return [sentence + behind for sentence in found]
