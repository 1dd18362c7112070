"""A conversation with a model, turn by turn: its settings, its adapters, and what may be said to the session itself.

What the model has read of the conversation stays read, for each adapter: a turn costs its own tokens and no more.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.commands.evaluate import load_for, open_given, resolve
from ctxtune.commands.generate import Ask, Voice, chat_tokens, system_turn
from ctxtune.commands.switch import Switch
from ctxtune.errors import RecipeError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from ctxtune.backend.decode import Written
    from ctxtune.backend.past import Past
    from ctxtune.backend.sample import Seeds
    from ctxtune.commands.switch import Key
    from ctxtune.recipe.schema import Recipe
    from ctxtune.recipe.written import Generation

HELP = """\
/reset              forget the conversation
/system [TEXT]      what the system says before it; nothing: no such turn
/set [KEY VALUE]    change a setting, such as temperature 0.7; nothing: show them
/adapter [PATH]     attach an adapter, none: the base alone; nothing: show those in memory
/save FILE          add the conversation to a file of chat rows
/quit               leave, as Ctrl-D does; Ctrl-C stops an answer
A line that ends in \\ goes on in the next."""


class Session:
    """The state between two lines of a user. `flags` are the options given, to which /set adds."""

    def __init__(
        self, flags: Mapping[str, object], adapter: Path | None, force: bool, say: Callable[[str], None]
    ) -> None:
        from ctxtune.backend.decode import require_causal

        opened = open_given(adapter)
        self.recipe: Recipe = resolve(None, flags, [], opened, adapter).recipe
        self.base = load_for(self.recipe, [], force, say)
        require_causal(self.base)
        self.flags = {**flags, "model": self.recipe.model}
        self.turns: list[dict[str, str]] = []
        self._say = say
        self._place: Path | None = None
        self.settings: Generation = self.recipe.generate  # how the next answer is written
        self._pasts: dict[Key | None, Past] = {}
        self._switch = Switch(self.base, force, say)
        self._seeds: tuple[int, Seeds] | None = None
        self._adopt(self.flags, adapter)

    @property
    def chat(self) -> bool:
        """Whether lines are turns: as set, else as the adapter was trained, else where the tokenizer has a template."""
        if self.settings.chat is not None:
            return self.settings.chat
        if self._place is not None:
            return self.recipe.data.messages is not None
        return bool(getattr(self.base.tokenizer, "chat_template", None))

    def greeting(self) -> str:
        """What a user should know before the first line."""
        mode = "a chat" if self.chat else "each line is a text to continue"
        who = f"{self.recipe.model} with {self._place}" if self._place else self.recipe.model
        return f"{who}: {mode}; /help shows what else there is"

    def ask(self, line: str) -> Generator[str, None, Written]:
        """The answer to a line, piece by piece. One that is broken off stays in the conversation as far as it came.

        Raises:
            CtxtuneError: the conversation has become too long, or the chat template refuses it; it is as it was before.
        """
        from ctxtune.backend.decode import check_prompt, stream

        said: list[str] = []
        turn = {"role": "user", "content": line}
        if self.chat:
            ids = chat_tokens(self.base, self.settings, [*self.turns, turn], "the conversation")
            check_prompt(self.base, ids, "the conversation")
        else:
            context = self._switch.context
            ids = Voice(self.base, self.settings, False, context).tokens(Ask("the text", line, {}))
            if context is not None and (remark := context.unlike(ids)):
                self._say(remark)
        try:
            answer = stream(self.base, ids, self.settings, self._seeds_of_session(), self._past())
            while True:
                try:
                    piece = next(answer)
                except StopIteration as end:
                    written: Written = end.value
                    return written
                said.append(piece)
                yield piece
        finally:
            if self.chat and "".join(said).strip():
                self.turns += [turn, {"role": "assistant", "content": "".join(said)}]

    def _past(self) -> Past:
        from ctxtune.backend.past import Past

        if self._switch.on not in self._pasts:
            context = self._switch.context
            self._pasts[self._switch.on] = context.past() if context is not None else Past(self.base)
        return self._pasts[self._switch.on]

    def _seeds_of_session(self) -> Seeds:
        from ctxtune.backend.sample import Seeds

        if self._seeds is None or self._seeds[0] != self.settings.seed:
            self._seeds = self.settings.seed, Seeds(self.settings.seed)
        return self._seeds[1]

    def obey(self, line: str) -> str | None:
        """Do what a line that begins with / says; returns the words for it, None to leave.

        Raises:
            CtxtuneError: it cannot be done; nothing has changed.
        """
        word, _, rest = line.strip().partition(" ")
        deeds: dict[str, Callable[[str], str]] = {
            "/help": lambda _: HELP, "/reset": self._reset, "/system": self._system, "/set": self._set,
            "/adapter": self._adapter, "/save": self._save,
        }  # fmt: skip
        if word == "/quit":
            return None
        if word not in deeds:
            near = difflib.get_close_matches(word, [*deeds, "/quit"], n=1)
            raise RecipeError(f"no command {word!r}", f"did you mean {near[0]}?" if near else "/help shows them")
        return deeds[word](rest.strip())

    def _reset(self, _: str) -> str:
        self.turns.clear()
        return "a new conversation"

    def _system(self, text: str) -> str:
        if text and not self.chat:
            raise RecipeError("a system's turn stands in a chat, and this is none", "/set chat true")
        self._adopt({**self.flags, "generate.system": text or None}, self._place)
        return "the system has spoken" if text else "the system says nothing"

    def _set(self, text: str) -> str:
        names = list(type(self.settings).model_fields)
        if not text:
            values = {**self.settings.model_dump(), "chat": self.chat}
            return "\n".join(f"{name} {json.dumps(values[name], ensure_ascii=False)}" for name in names)
        name, _, value = text.partition(" ")
        name = name.replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise RecipeError(
                f"no setting {name!r}", f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
            )
        given: object = value.strip()
        if name == "stop" and not value.startswith("["):
            given = [value.replace("\\n", "\n")] if value else []
        self._adopt({**self.flags, f"generate.{name}": given}, self._place)
        return f"{name} {json.dumps(getattr(self.settings, name), ensure_ascii=False)}"

    def _adapter(self, text: str) -> str:
        if text:
            self._adopt(self.flags, None if text == "none" else Path(text).expanduser())
            return self.greeting()
        paths = [f"{path}{' (on)' if (path, *rest) == self._switch.on else ''}" for path, *rest in self._switch.known]
        return "\n".join(paths) or "no adapter in memory"

    def _adopt(self, flags: Mapping[str, object], place: Path | None) -> None:
        """Settings and adapter together, or neither."""
        from ctxtune.commands.behind import settings_behind
        from ctxtune.data.chat import require_template

        opened = open_given(place)
        recipe = resolve(None, flags, [], opened, place).recipe
        settings = settings_behind(recipe, opened)
        if settings.chat:
            require_template(self.base.tokenizer)
        if place is not None or self._switch.on is not None:
            self._switch.use(place)
        self.recipe, self.flags, self._place, self.settings = recipe, dict(flags), place, settings

    def _save(self, text: str) -> str:
        if not text:
            raise RecipeError("/save: no file is named", "/save chats.jsonl")
        if not self.turns:
            raise RecipeError("there is no conversation to save")
        path = Path(text).expanduser()
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"messages": [*system_turn(self.settings), *self.turns]}, ensure_ascii=False) + "\n"
                )
        except (OSError, ValueError) as error:
            raise StorageError(f"{text} cannot be written: {getattr(error, 'strerror', None) or error}") from error
        return f"saved to {path}"
