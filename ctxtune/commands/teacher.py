"""A long prompt that teaches a short one: what a model says of the choices behind demonstrations, asked once for every row.

The rows are asked as few-shot prompting asks them (asking.py): the demonstrations are read once, each row goes on from there,
and one that is itself a demonstration does not see its own answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctxtune.commands.asking import Asking
from ctxtune.commands.fewshot import check_room
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.commands.prepare import to_score
from ctxtune.errors import RecipeError, StorageError
from ctxtune.methods.fewshot import behind, by_shots, shots_of
from ctxtune.recipe.plural import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ctxtune.backend.load import Base
    from ctxtune.commands.clock import Clock
    from ctxtune.commands.prepare import Source
    from ctxtune.data.encode import EncodeSpec
    from ctxtune.data.read import Row
    from ctxtune.evals.items import Item
    from ctxtune.methods.fewshot import Shots
    from ctxtune.recipe.schema import Prompt, Recipe


@dataclass(frozen=True)
class LongPrompt:
    """Demonstrations, and how rows become tokens with nothing before them but the instruction."""

    shots: Shots
    spec: EncodeSpec

    @property
    def tokens(self) -> int:
        """What stands before every question."""
        return len(behind(self.shots, self.spec).encode_front())

    def seen(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that fit behind it.

        Raises:
            RecipeError: some do not, and data.on_long does not say that they are dropped or cut.
        """
        spec = replace(self.spec, answer=None)
        check_room({self.shots: list(rows)}, spec)
        return to_score(rows, behind(self.shots, spec)).row_of

    def say(
        self, rows: Sequence[Row], dev: Source | None, run: tuple[Base, str, Recipe, Clock], tell: Callable[[str], None]
    ) -> dict[str, Any]:
        """What the model says behind it: log-probabilities of the choices of rows to learn from and to score; its scores."""
        import numpy as np

        from ctxtune.evals.calibrate import log_shares
        from ctxtune.evals.items import summarise

        base, mark, recipe, clock = run

        def items(some: Sequence[Row], spec: EncodeSpec) -> list[Item]:
            found = Asking(base, mark, recipe, spec, clock).items(list(some), by_shots(some, self.shots, spec))
            return [item for item in found if item is not None]

        count = len(rows) + (len(dev.rows) if dev is not None else 0)
        what = f"asking {counted(count, 'row')} behind {counted(len(self.shots), 'demonstration')}"
        with heartbeat(tell, f"{what}, {self.tokens:,} tokens"):
            found = {"train": items(rows, replace(self.spec, answer=None))}
            found["eval"] = items(dev.rows, self.spec) if dev is not None else []
        said = {key: [log_shares(np.array(item.said["ll"])).tolist() for item in some] for key, some in found.items()}
        scores = summarise(found["eval"]) if found["eval"] else {}
        return {"shots": len(self.shots), "tokens": self.tokens, "scores": scores, "log_shares": said}


def checked(told: Any, path: Path, train: Sequence[int], dev: Sequence[int]) -> dict[str, Any]:
    """What a teacher said in an earlier part of a run, of rows to learn from and rows to score with so many choices each.

    Raises:
        StorageError: the file holds something else.
    """
    if not _fits(told, {"train": list(train), "eval": list(dev)}):
        rows = f"{counted(len(train), 'row')} to learn from and {counted(len(dev), 'row')} to score"
        raise StorageError(
            f"{path} is not what a teacher says of {rows}", "remove it: the same command with --resume asks again"
        )
    found: dict[str, Any] = told
    return found


def _fits(told: Any, choices: dict[str, list[int]]) -> bool:
    kinds = {"shots": int, "tokens": int, "scores": dict, "log_shares": dict}
    if not isinstance(told, dict) or {key: type(value) for key, value in told.items()} != kinds:
        return False
    return {key: _sizes(rows) for key, rows in told["log_shares"].items()} == choices


def _sizes(rows: Any) -> list[int] | None:
    """How many numbers each row has; None of what are no rows of numbers."""
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        return None
    return [len(row) for row in rows] if all(type(value) is float for row in rows for value in row) else None


def long_prompt(settings: Prompt, rows: Sequence[Row], spec: EncodeSpec, separator: str) -> LongPrompt | None:
    """The prompt that a short one is to answer like; None where labels are learned.

    Raises:
        RecipeError: the rows have no choices.
    """
    if settings.distill_from is None:
        return None
    if spec.choices is None:
        raise RecipeError(
            f"method.distill_from {settings.distill_from}: the rows have no choices, whose shares are what is taught",
            "list them: --choices a,b, or leave it out",
        )
    return LongPrompt(shots_of(rows, spec, separator), spec)
