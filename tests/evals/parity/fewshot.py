"""The few-shot tasks on which ctxtune is compared with lm-evaluation-harness, each written once for both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .tasks import FOLDER, QUESTION, REVIEW, SENTIMENT, Task

TRAIN = Path(__file__).resolve().parents[3] / "templates" / "data" / "mr_train.jsonl"
INTENTS = [
    "card arrival", "exchange rate", "lost or stolen card", "top up failed", "verify my identity", "transfer timing",
    "wrong amount of cash received", "refund not showing up",
]  # fmt: skip
MESSAGE = "Message: {{ text }}\nIntent:"
TELL = "Tell what the writer thinks of the film.\n\n"


@dataclass(frozen=True)
class Fewshot(Task):
    """One comparison. `pool` is where demonstrations come from.

    `splits` is how the harness's task names its splits: `two`, with the pool's as `fewshot_split`; `unnamed`, with no such key
    and no test split; `one`, where the rows are their own pool.
    """

    pool: str = ""
    shots: int = 3
    select: str = "random"
    splits: str = "two"
    instruction: str = ""
    chat: bool = False
    first: int | None = None
    """so many rows alone"""
    model: bool = True
    """whether a model is asked; otherwise only what it would read is compared"""

    @property
    def one_more(self) -> bool | str:
        """What ctxtune is told of the splits."""
        return self.splits == "unnamed" or "auto"

    @property
    def method(self) -> dict[str, Any]:
        """The method's keys."""
        told = {"shots": self.shots, "select": self.select, "one_more": self.one_more, "chat": self.chat}
        return {"name": "fewshot", "replay": "lm-eval", **told}

    @property
    def data(self) -> dict[str, Any]:
        """The data's keys, but for the files of rows that may not stand here."""
        choices = f"{{{{ {self.choices} }}}}" if isinstance(self.choices, str) else self.choices
        files = {"train": str(FOLDER / self.pool), "eval": str(FOLDER / self.rows)}
        asked = {"prompt": self.prompt, "answer": self.answer, "choices": choices, "instruction": self.instruction}
        return {**files, **asked}


FEWSHOT = {
    "sst2": Fewshot("sst2.jsonl", REVIEW, "{{ label }}", SENTIMENT, pool="sst2_train.jsonl", shots=4, first=24),
    "mr": Fewshot("mr.jsonl", REVIEW, "{{ label }}", SENTIMENT, pool=str(TRAIN), shots=4, instruction=TELL),
    "mr_itself": Fewshot("mr.jsonl", REVIEW, "{{ label }}", SENTIMENT, pool="mr.jsonl", shots=4, splits="one", model=False),
    "mr_unnamed": Fewshot(
        "mr.jsonl", REVIEW, "{{ label }}", SENTIMENT, pool=str(TRAIN), shots=4, splits="unnamed", model=False
    ),
    "mr_space": Fewshot("mr.jsonl", f"{REVIEW} ", "{{ label }}", SENTIMENT, pool=str(TRAIN), first=16),
    "arc_easy": Fewshot("arc_easy.jsonl", QUESTION, "{{ answer }}", "choices", pool="arc_challenge.jsonl"),
    "arc_first": Fewshot(
        "arc_easy.jsonl", QUESTION, "{{ answer }}", "choices", pool="arc_easy.jsonl", select="fixed", splits="one",
        model=False,
    ),
    "banking": Fewshot("banking.jsonl", MESSAGE, "{{ label }}", INTENTS, pool="banking_train.jsonl"),
    "banking_chat": Fewshot(
        "banking.jsonl", MESSAGE, "{{ label }}", INTENTS, pool="banking_train.jsonl", chat=True, first=24
    ),
    "banking_written": Fewshot("banking.jsonl", MESSAGE, "{{ label }}", pool="banking_train.jsonl", first=16),
    "banking_chat_written": Fewshot(
        "banking.jsonl", MESSAGE, "{{ label }}", pool="banking_train.jsonl", chat=True, first=16
    ),
}  # fmt: skip


def expected_fewshot() -> dict[str, Any]:
    """What lm-evaluation-harness found."""
    found: dict[str, Any] = json.loads((FOLDER / "fewshot.json").read_text(encoding="utf-8"))
    return found
