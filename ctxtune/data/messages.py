"""The conversation of a row: who says what, checked, and in the one form that chat templates take.

    {"role": "user", "content": "..."}      OpenAI's names; tool_calls, name and the like go along as they are
    {"from": "human", "value": "..."}       ShareGPT's: human, gpt, system and tool

Three things that templates print wrongly without a word are put right: a null is left out, content in parts becomes one
text, and the arguments of a tool call are an object, not the JSON text of one.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.errors import DataError

if TYPE_CHECKING:
    from ctxtune.data.read import Row
    from ctxtune.data.render import Template

MAX_MESSAGES = 1_000  # of one row: each assistant turn is rendered with all that stands before it
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SHAREGPT = {"human": "user", "gpt": "assistant", **{role: role for role in ("user", "assistant", "system", "tool")}}
FORM = 'write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Messages in order, and the tools that may be called in them, as JSON schemas."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None

    @property
    def replies(self) -> list[int]:
        """Where the assistant speaks."""
        return [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]

    @property
    def offered(self) -> list[str]:
        """The names of the tools."""
        return [tool.get("function", tool)["name"] for tool in self.tools or ()]

    def called(self, reply: int) -> list[str]:
        """The names of the tools that a reply calls."""
        return [call.get("function", call)["name"] for call in self.messages[reply].get("tool_calls") or ()]

    @property
    def head(self) -> int:
        """How many messages stand at the front that are instructions."""
        roles = [message["role"] in ("system", "developer") for message in self.messages]
        return roles.index(False) if False in roles else len(roles)

    def part(self, begin: int, end: int) -> Conversation:
        """The instructions, and of what follows them the messages `begin` to `end`, the last left out."""
        return Conversation((*self.messages[: self.head], *self.messages[max(begin, self.head) : end]), self.tools)


def conversation_of(row: Row, messages: Template, tools: Template | None) -> Conversation:
    """The conversation that a row holds.

    Raises:
        DataError: it is no list of messages, or none of them can be learned from.
    """
    where = f"{row.where}: {messages.key}"
    found = _objects(messages.value(row), where)
    if len(found) > MAX_MESSAGES:
        raise DataError(f"{where}: {len(found):,} messages are more than {MAX_MESSAGES:,}", "cut the conversation")
    spoken = tuple(_message(one, f"{where}[{i}]") for i, one in enumerate(found))
    talk = Conversation(spoken, _tools(row, tools) if tools is not None else None)
    if not talk.replies:
        raise DataError(f"{where}: no supervised tokens: the assistant never speaks", FORM)
    if talk.replies[0] == 0:
        raise DataError(
            f"{where}: the assistant speaks first, and nobody has asked", "remove that turn, or put one before it"
        )
    return talk


def _tools(row: Row, template: Template) -> tuple[dict[str, Any], ...] | None:
    given, where = template.value(row), f"{row.where}: {template.key}"
    return tuple(_tool(one, where) for one in _objects(given, where)) if given else None


def _objects(value: object, where: str) -> list[dict[str, Any]]:
    """A list of objects, or the JSON text of one, as it stands in tables."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is a text, and not that of a list in JSON", FORM) from error
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{where} is {_kind(value)}, not a list of objects", FORM)
    for i, one in enumerate(value):
        if not isinstance(one, dict):
            raise DataError(f"{where}[{i}] is {_kind(one)}, not an object", FORM)
    return list(value)


def _message(given: dict[str, Any], where: str) -> Message:
    if "role" not in given and "from" in given:
        given = {"role": _sharegpt(given["from"], where), "content": given.get("value")}
    message = {key: value for key, value in given.items() if value is not None}
    role = message.get("role")
    if role not in ROLES:
        near = difflib.get_close_matches(str(role), ROLES, n=1)
        hint = f"did you mean {near[0]!r}" if near else f"roles are {', '.join(ROLES)}"
        raise DataError(f"{where}: {f'the role {role!r}' if role else 'a message without a role'}", hint)
    message["content"] = _content(message.get("content", ""), where)
    if message.get("tool_calls"):
        message["tool_calls"] = [_call(one, f"{where}.tool_calls") for one in _objects(message["tool_calls"], where)]
    elif role == "assistant" and not message["content"].strip():
        raise DataError(f"{where}: the assistant says nothing", "fill it in, or remove the turn")
    return message


def _sharegpt(name: object, where: str) -> str:
    if name not in SHAREGPT:
        raise DataError(
            f"{where}: from {name!r}", f"known are {', '.join(SHAREGPT)}; tool calls are written as OpenAI does"
        )
    return SHAREGPT[str(name)]


def _content(value: object, where: str) -> str:
    """A text, also of parts: [{"type": "text", "text": ...}]."""
    if isinstance(value, str):
        return value
    texts = [one.get("text") if isinstance(one, dict) else None for one in value] if isinstance(value, list) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: the content is no text", "images and sounds cannot be learned from")
    return "".join(map(str, texts))


def _call(given: dict[str, Any], where: str) -> dict[str, Any]:
    """A tool call whose arguments are an object."""
    inner = _named(given, f"{where}: a call", '{"function": {"name": "...", "arguments": {...}}}')
    arguments = inner.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: the arguments of {inner['name']!r} are broken JSON") from error
    called = {**inner, **({} if arguments is None else {"arguments": arguments})}
    return {**given, "function": called} if "function" in given else called


def _tool(given: dict[str, Any], where: str) -> dict[str, Any]:
    """A tool, as the row describes it."""
    _named(given, f"{where}: a tool", '{"type": "function", "function": {"name": "...", "parameters": {...}}}')
    return given


def _named(given: dict[str, Any], what: str, form: str) -> dict[str, Any]:
    inner = given.get("function", given)
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise DataError(f"{what} without a name", f"write {form}")
    return inner


def _kind(value: object) -> str:
    return "null" if value is None else "an empty list" if value == [] else type(value).__name__
