"""Conversations become token ids by the tokenizer's own chat template; what the assistant says is learned.

What is learned is found by rendering step by step, for every assistant turn i that is to be learned:

    before = template(messages[:i], add_generation_prompt)    after = template(messages[:i+1])    learned: after - before

`before` is what the model reads when it is asked, so that use and training cannot differ, and the difference holds the
token that ends the turn; white space behind that token is never written by a model in use and is not learned. Marks in
the template (`{% generation %}`) are not needed.

One example holds all turns of a conversation as long as each `after` begins the next. A template that rewrites earlier
turns (leaves out what was thought in them, moves the instructions) breaks this: then the conversation goes on as a new
example, in which each turn stands in the words that the model will have before it. So does one whose tokenizer has words of a
learned prompt behind what is asked (prompt.py): they stand before the reply that is learned, and before no other.

Tokens are those of the whole text. Where a tokenizer joins the end of `before` with the first letters of a reply (a line
break with a line break), the joined token is learned: lm-evaluation-harness splits prompts and answers the same way.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ctxtune.data.encode import Encoded, EncodedSet, OnLong, check_supervised, chunks
from ctxtune.data.messages import Conversation, conversation_of
from ctxtune.data.prompt import words_behind
from ctxtune.data.render import FAILURES
from ctxtune.data.tokens import Tokenizer, content
from ctxtune.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctxtune.data.read import Row
    from ctxtune.data.render import Template


class ChatTokenizer(Tokenizer, Protocol):
    """What is used of a tokenizer that has a chat template."""

    chat_template: Any
    added_tokens_decoder: Mapping[int, Any]
    all_special_ids: list[int]

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


@dataclass(frozen=True)
class ChatSpec:
    """How conversations become tokens: the recipe's data section and the model's tokenizer."""

    tokenizer: ChatTokenizer
    messages: Template
    tools: Template | None
    learn: Literal["all", "last"]
    max_length: int
    on_long: OnLong = "error"

    def render(self, row: Row) -> Conversation:
        """The row's conversation, not yet in the template's words."""
        return conversation_of(row, self.messages, self.tools)


@dataclass(frozen=True)
class Script:
    """A rendered conversation up to a reply; `spans` of its text are learned, `replies` are their messages."""

    text: str
    spans: tuple[tuple[int, int], ...]
    replies: tuple[int, ...]


def require_template(tokenizer: ChatTokenizer, instead: str = "write data.prompt and data.answer") -> None:
    """Refuse a tokenizer that cannot render conversations; `instead` is what can be done with it.

    Raises:
        ModelError: it has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "the tokenizer has no chat template, and conversations are rendered by it",
            f"choose a model that was tuned for chats, or {instead}",
        )


def template_hash(tokenizer: ChatTokenizer) -> str:
    """The sha256 of the chat template, or of all where there are several."""
    return hashlib.sha256(json.dumps(tokenizer.chat_template, sort_keys=True).encode()).hexdigest()


def render_chat(tokenizer: ChatTokenizer, talk: Conversation, where: str, *, ask: bool = False) -> str:
    """A conversation in the template's words; with `ask` it ends where the assistant begins to speak.

    Raises:
        DataError: the template refuses the conversation, or fails on it.
    """
    try:
        text: str = tokenizer.apply_chat_template(
            list(talk.messages),
            tools=list(talk.tools) if talk.tools else None,
            add_generation_prompt=ask,
            tokenize=False,
        )
    except FAILURES as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{where}: the model's chat template refuses the conversation: {said}") from error
    return text


def encode_asked(tokenizer: ChatTokenizer, talk: Conversation, where: str) -> list[int]:
    """The tokens that the model reads before it replies: of `before` above."""
    require_template(tokenizer)
    return list(content(tokenizer, [render_chat(tokenizer, talk, where, ask=True)])[0]["input_ids"])


def encode_chats(rows: Sequence[Row], spec: ChatSpec) -> EncodedSet:
    """The conversations of all rows, to learn from.

    Raises:
        DataError: a row has nothing to learn from, or is too long and `on_long` says nothing else.
    """
    done = EncodedSet()
    marks = _marks(spec.tokenizer)
    for chunk in chunks(rows):
        talks = [spec.render(row) for row in chunk]
        written = [scripts(spec.tokenizer, talk, row.where, spec.learn) for row, talk in zip(chunk, talks, strict=True)]
        encoded = iter(_encode(spec.tokenizer, [one for row in written for one in row], marks))
        for row, talk, parts in zip(chunk, talks, written, strict=True):
            whole = [next(encoded) for _ in parts]
            kept = _fit(row, talk, list(zip(parts, whole, strict=True)), spec, marks)
            if kept is None:
                done.dropped += 1
                continue
            done.truncated += kept != whole
            done.split += len(kept) > 1
            done.examples += kept
            done.row_of += [row] * len(kept)
    return done


def scripts(tokenizer: ChatTokenizer, talk: Conversation, where: str, learn: Literal["all", "last"]) -> list[Script]:
    """The conversation rendered up to its last reply: one script, or several where the template rewrites earlier turns."""
    done: list[Script] = []
    words = words_behind(tokenizer)
    for reply in talk.replies if learn == "all" else talk.replies[-1:]:
        before = render_chat(tokenizer, Conversation(talk.messages[:reply], talk.tools), where, ask=True)
        after = render_chat(tokenizer, Conversation(talk.messages[: reply + 1], talk.tools), where)
        if words and after.startswith(asked := before.removesuffix(words)):
            after = before + after.removeprefix(asked)
        if not after.startswith(before):
            raise DataError(
                f"{where}: the model's chat template does not begin reply {reply} with the words in which it asks for it",
                "what it asks with could not be learned: mend the template, or write data.prompt and data.answer",
            )
        _check_turn(talk, reply, before, after, where)
        earlier = done.pop() if done and after.startswith(done[-1].text) else Script("", (), ())
        done.append(Script(after, (*earlier.spans, (len(before), len(after))), (*earlier.replies, reply)))
    return done


def _check_turn(talk: Conversation, reply: int, before: str, after: str, where: str) -> None:
    """Refuse what a template leaves out without a word: a turn, the call of a tool, the tools themselves."""
    said = after[len(before) :]
    if not said.strip():
        raise DataError(f"{where}: no supervised tokens: the model's chat template leaves reply {reply} out")
    for name in talk.called(reply):
        if name not in said:
            raise DataError(
                f"{where}: the model's chat template leaves out that reply {reply} calls {name!r}",
                "choose a model whose template knows tool calls, or write the call as text",
            )
    for name in talk.offered:
        if name not in before:
            raise DataError(
                f"{where}: the model's chat template leaves out the tool {name!r}",
                "choose a model whose template knows tools, or remove data.tools",
            )


def _encode(tokenizer: ChatTokenizer, written: Sequence[Script], marks: frozenset[int]) -> list[Encoded]:
    """Each script as tokens. A token belongs to the span in which it ends."""
    done = []
    for script, found in zip(written, content(tokenizer, [one.text for one in written], offsets=True), strict=True):
        ids, stops = found["input_ids"], [stop for _, stop in found["offset_mapping"]]
        places: list[int] = []
        for begin, end in script.spans:
            learned = range(max(1, bisect_right(stops, begin)), bisect_right(stops, end))
            last = next((i for i in reversed(learned) if ids[i] in marks), None)
            ended = last is not None and not script.text[stops[last] : end].strip()
            places += learned[: last + 1 - learned.start] if ended and last is not None else learned
        fed = tuple(ids[: places[-1]]) if places else ()
        done.append(Encoded(fed, tuple(i - 1 for i in places), tuple(ids[i] for i in places)))
    return done


def _fit(
    row: Row, talk: Conversation, parts: Sequence[tuple[Script, Encoded]], spec: ChatSpec, marks: frozenset[int]
) -> list[Encoded] | None:
    """The row's examples, none longer than allowed; None where the row is to be dropped."""
    kept = []
    for script, one in parts:
        check_supervised(one, row.where)
        if len(one.ids) > spec.max_length:
            if spec.on_long == "drop":
                return None
            one = _shortened(row, talk, script, one, spec, marks)
        kept.append(one)
    return kept


def _shortened(
    row: Row, talk: Conversation, script: Script, whole: Encoded, spec: ChatSpec, marks: frozenset[int]
) -> Encoded:
    """The end of the conversation, from the first of the user's turns from which it fits; the instructions stay."""
    last = script.replies[-1]
    begins = [i for i in range(talk.head + 1, last) if talk.messages[i]["role"] == "user"]
    low, high, best, length = 0, len(begins), None, len(whole.ids)
    while spec.on_long == "truncate" and low < high:
        middle = (low + high) // 2
        part = talk.part(begins[middle], last + 1)
        (one,) = _encode(spec.tokenizer, scripts(spec.tokenizer, part, row.where, spec.learn)[-1:], marks)
        length = min(length, len(one.ids))
        if len(one.ids) <= spec.max_length:
            best, high = one, middle
        else:
            low = middle + 1
    if best is not None:
        return best
    if spec.on_long == "truncate":
        said = f"its last exchange alone has {length:,} tokens, more than fit into {spec.max_length:,}"
        raise DataError(f"{row.where}: {said}", "shorten the row, or set data.on_long to drop")
    said = f"{length:,} tokens are more than {spec.max_length:,}"
    raise DataError(f"{row.where}: {said}", "shorten the row, or set data.on_long to drop or truncate")


def _marks(tokenizer: ChatTokenizer) -> frozenset[int]:
    """The tokens that are signs and not text: only such a token ends a turn."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    return frozenset(added | set(tokenizer.all_special_ids))
