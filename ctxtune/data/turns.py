"""Demonstrations as turns of a chat: each is a user's turn and the assistant's reply, the question a last user's turn.

The model's own template renders the whole of it, up to where the assistant begins to speak, as lm-evaluation-harness does with
`--apply_chat_template --fewshot_as_multiturn`. The instruction is the system's turn, where the template has one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctxtune.data.chat import render_chat, require_template
from ctxtune.data.messages import Conversation
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.data.chat import ChatTokenizer
    from ctxtune.data.messages import Message

_MARK = "\ue000"  # a letter for private use: no text holds it


@dataclass(frozen=True)
class Turns:
    """What stands before a question: the system's turn, or else `lead`, the words that begin the first turn; then `shots`."""

    tokenizer: ChatTokenizer
    system: tuple[Message, ...] = ()
    lead: str = ""
    shots: tuple[tuple[str, str], ...] = ()

    def behind(self, shots: Sequence[tuple[str, str]]) -> Turns:
        """The same behind more questions, each with its answer."""
        return replace(self, shots=(*self.shots, *shots))

    def asked(self, question: str, where: str) -> str:
        """The whole chat, up to where the answer begins.

        Raises:
            DataError: the template refuses it.
        """
        said = [text for shot in self.shots for text in shot] + [question]
        said[0] = self.lead + said[0]
        turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
        return render_chat(self.tokenizer, Conversation((*self.system, *turns)), where, ask=True)

    @property
    def front(self) -> str:
        """What is read before any question."""
        return self.asked(_MARK, "a demonstration").partition(_MARK)[0]


def turns_of(tokenizer: ChatTokenizer, instruction: str, *, drop: bool = False) -> Turns:
    """A chat that has not begun. A template without a system's turn has the instruction in the first turn, or is to `drop` it.

    Raises:
        ModelError: the tokenizer has no chat template.
    """
    require_template(tokenizer, "leave --chat out")
    plain = Turns(tokenizer)
    if not instruction.strip():
        return plain
    told = replace(plain, system=({"role": "system", "content": instruction},))
    try:
        heard = instruction.strip() in told.asked(_MARK, "the instruction")
    except DataError:
        heard = False
    if heard:
        return told
    return plain if drop else replace(plain, lead=instruction)
