"""The story of generating: load -> attach -> continue the prompts, a window at a time -> hand the texts out in order."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ctxtune.commands.evaluate import load_with, open_given, resolve
from ctxtune.errors import CtxtuneError, DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ctxtune.backend.decode import Written
    from ctxtune.backend.load import Base
    from ctxtune.backend.sample import Seeds
    from ctxtune.commands.behind import Context
    from ctxtune.recipe.written import Generation

RESULT = ("text", "tokens", "reason")
"""the fields that an answer adds to a row"""


@dataclass(frozen=True)
class Ask:
    """A prompt, what an error calls it, and the fields that are handed back beside the answer."""

    where: str
    prompt: str
    fields: Mapping[str, object]


def asks_of_prompts(prompts: Iterable[str]) -> Iterator[Ask]:
    """Plain prompts, counted from 1."""
    for number, prompt in enumerate(prompts, 1):
        yield Ask(f"prompt {number}", prompt, {"prompt": prompt})


def asks_of_jsonl(lines: Iterable[str]) -> Iterator[Ask]:
    """JSON objects with a field `prompt`, one a line; the other fields are kept.

    Raises:
        DataError: a line is no such object, or has a field that the answer needs.
    """
    from ctxtune.data.objects import read_jsonl
    from ctxtune.data.read import Row

    for line, fields in read_jsonl(iter(lines), "stdin"):
        row = Row(fields, "stdin", line)
        prompt = row.fields.get("prompt")
        if not isinstance(prompt, str):
            fault = "is no text" if "prompt" in row.fields else "is missing"
            raise DataError(f"{row.where}: the field 'prompt' {fault}", 'write {"prompt": "...", ...}')
        if taken := [name for name in RESULT if name in row.fields]:
            raise DataError(f"{row.where}: the field {taken[0]!r} is where the result goes", "give it another name")
        yield Ask(row.where, prompt, row.fields)


@dataclass(frozen=True)
class Voice:
    """A model that is ready to write, and how it is to; `chat`: a prompt is a user's turn in the tokenizer's template.

    `context` are demonstrations that every prompt stands behind.
    """

    base: Base
    settings: Generation
    chat: bool
    context: Context | None = None

    def tokens(self, ask: Ask) -> list[int]:
        """The prompt as the model reads it.

        Raises:
            DataError, ModelError: it is no text, is empty, or does not fit the model.
        """
        from ctxtune.backend.decode import check_prompt
        from ctxtune.data.prompt import encode_question

        if any("\ud800" <= letter <= "\udfff" for letter in ask.prompt):  # bytes of a command line that are no UTF-8
            raise DataError(f"{ask.where} is not text: it holds half a character")
        if self.chat:
            ids = chat_tokens(self.base, self.settings, [{"role": "user", "content": ask.prompt}], ask.where)
        else:
            ids = (
                self.context.asked(ask.prompt)
                if self.context is not None
                else encode_question(self.base.tokenizer, ask.prompt)
            )
        check_prompt(self.base, ids, ask.where)
        return ids

    def write(self, prompts: Sequence[Sequence[int]], seeds: Seeds) -> list[Written]:
        """Continue prompts, given as tokens."""
        from ctxtune.backend.decode import generate_batch

        if self.context is not None:
            return self.context.write(prompts, self.settings, seeds)
        return generate_batch(self.base, prompts, self.settings, seeds)


def chat_tokens(base: Base, settings: Generation, turns: Sequence[dict[str, str]], where: str) -> list[int]:
    """A conversation, after the system's turn if there is one, up to where the model begins to speak.

    Raises:
        ModelError, DataError: the tokenizer has no chat template; the template refuses the conversation.
    """
    from ctxtune.data.chat import encode_asked
    from ctxtune.data.messages import Conversation

    return encode_asked(base.tokenizer, Conversation((*system_turn(settings), *turns)), where)


def system_turn(settings: Generation) -> list[dict[str, str]]:
    """What the system says before a conversation: one turn, or none."""
    return [{"role": "system", "content": settings.system}] if settings.system is not None else []


def open_voice(flags: Mapping[str, object], adapter: Path | None, force: bool, say: Callable[[str], None]) -> Voice:
    """The model with its adapter, and the settings: those given, else those the adapter was trained with.

    A prompt is a chat where that is asked for, or where the adapter was trained on chats; otherwise it is continued as it is.

    Raises:
        RecipeError, ModelError, AdapterError: a wrong setting; as in `load_with`; the model cannot continue a text.
    """
    from ctxtune.backend.decode import require_causal
    from ctxtune.commands.behind import open_context, settings_behind

    opened = open_given(adapter)
    recipe = resolve(None, flags, [], opened, adapter).recipe
    settings = settings_behind(recipe, opened)
    chat = recipe.data.messages is not None if settings.chat is None else settings.chat
    if flags.get("generate.system") is not None and not chat:
        raise RecipeError("--system: a system's turn stands in a chat, and this is none", "add --chat")
    if settings.temperature == 0 and (settings.top_p < 1 or settings.top_k or settings.min_p):
        say("top_p, top_k and min_p change nothing at temperature 0")
    base = load_with(recipe, opened, force, say)
    require_causal(base)
    return Voice(base, settings, chat, open_context(base, opened))


def generate(
    asks: Iterable[Ask],
    flags: Mapping[str, object],
    adapter: Path | None,
    force: bool,
    window: int,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """For each prompt, in order, its fields and {text, tokens, reason}.

    `window` prompts are read before the first is answered, and answered in batches of like lengths: the results are those
    of one by one. What stands before a wrong prompt is still answered.

    Raises:
        DataError: a prompt is wrong.
        RecipeError, ModelError, AdapterError: as in `open_voice`.
    """
    from ctxtune.backend.sample import Seeds

    voice = open_voice(flags, adapter, force, say)
    seeds, source, pace = Seeds(voice.settings.seed), iter(asks), Pace()
    more, told = True, False
    while more:
        ready: list[tuple[Ask, list[int]]] = []
        fault: CtxtuneError | None = None
        try:
            for ask in islice(source, window):
                ready.append((ask, voice.tokens(ask)))
        except CtxtuneError as error:
            fault = error
        with pace:
            done = voice.write([ids for _, ids in ready], seeds)
        for (ask, _), written in zip(ready, done, strict=True):
            pace.tokens += len(written.tokens)
            if written.reason == "context" and not told:
                told = True
                say(full(voice.base))
            yield facts(ask, written)
        if fault is not None:
            raise fault
        more = len(ready) == window
    if voice.context is not None and (remark := voice.context.remark()):
        say(remark)
    say(str(pace))


def stream(
    prompt: str, flags: Mapping[str, object], adapter: Path | None, force: bool, say: Callable[[str], None]
) -> Iterator[str]:
    """One prompt; its text comes in pieces, as it is made.

    Raises:
        CtxtuneError: as in `generate`.
    """
    from ctxtune.backend import decode

    (ask,) = asks_of_prompts([prompt])
    voice = open_voice(flags, adapter, force, say)
    ids, pace = voice.tokens(ask), Pace()
    with pace:
        past = voice.context.past() if voice.context is not None else None
        if voice.context is not None and (remark := voice.context.unlike(ids)):
            say(remark)
        written = yield from decode.stream(voice.base, ids, voice.settings, past=past)
    pace.tokens = len(written.tokens)
    if written.reason == "context":
        say(full(voice.base))
    say(str(pace))


def full(base: Base) -> str:
    """What is said of a text that ended before its time."""
    return f"the model reads {base.max_length:,} tokens, prompt and answer together: a text ended there, unfinished"


def facts(ask: Ask, written: Written) -> dict[str, Any]:
    """The prompt's fields with the result."""
    return {**ask.fields, "text": written.text, "tokens": len(written.tokens), "reason": written.reason}


class Pace:
    """Tokens written, and the seconds spent in `with pace`."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._start

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens, {self.tokens / max(self.seconds, 1e-9):,.1f} tokens/s"
