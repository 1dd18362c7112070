"""A run's folder: what lies in it, and that nobody else writes to it at the same time.

recipe.yaml             the resolved recipe, with the origin of each value
choice.json             what `layers: auto` chose from
mask.safetensors        which numbers move, of a mask that weights or rows speak for
teacher.json            what the long prompt that a short one is distilled from said
metrics.jsonl           one line a step
checkpoint.safetensors  the last state, or checkpoint.json, which says where parts of it lie; best.safetensors the best numbers
stdin.jsonl             what came through a pipe
control/                the same of a random mask beside a chosen one
adapter/                the result; model/ that of pretraining
scores.jsonl            what every row gave, of a few-shot run
result.json             every number of the run; its presence says that the run is complete
"""

from __future__ import annotations

import fcntl
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.backend.atomic import check_writable, remove, storing, write_text
from ctxtune.backend.ranks import ALONE
from ctxtune.data.finite import plain
from ctxtune.data.open import SPOOL
from ctxtune.errors import PlaceError, RecipeError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ctxtune.backend.ranks import Ranks
    from ctxtune.commands.clock import Clock


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def choice(self) -> Path:
        return self.path / "choice.json"

    @property
    def mask(self) -> Path:
        return self.path / "mask.safetensors"

    @property
    def teacher(self) -> Path:
        return self.path / "teacher.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def last(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def control(self) -> RunFolder:
        return RunFolder(self.path / "control")

    @property
    def stdin(self) -> Path:
        return self.path / SPOOL

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def scores(self) -> Path:
        return self.path / "scores.jsonl"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    def read_result(self) -> dict[str, Any] | None:
        """The numbers of a complete run, None of one that is not complete."""
        try:
            facts: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return facts

    def after_a_stop(self) -> str:
        """What brings a run on that was stopped."""
        if self.last.exists() or self.last.with_suffix(".json").exists():
            return "the same command with --resume goes on from the last checkpoint"
        if self.recipe.exists() or self.stdin.exists():
            return "no step is on the disk yet: the same command with --resume trains from the beginning"
        return "nothing was begun yet: give the same command again"

    def read_choice(self) -> dict[str, Any] | None:
        """The table that the layers of this run were chosen from, None where they were given."""
        return _kept(self.choice)

    def write_choice(self, facts: dict[str, Any]) -> None:
        """Keep the table of a choice; the recipe with what was chosen is written next."""
        write_text(self.choice, json.dumps(facts, indent=1) + "\n")

    def read_teacher(self) -> dict[str, Any] | None:
        """What a teacher said in an earlier part of this run, None where nobody asked it yet."""
        return _kept(self.teacher)

    def write_teacher(self, told: dict[str, Any]) -> None:
        """Keep what a teacher said: a run that goes on is pulled by the same numbers."""
        write_text(self.teacher, json.dumps(told) + "\n")

    def told(self, clock: Clock, story: Callable[[], dict[str, Any]], ranks: Ranks = ALONE) -> dict[str, Any]:
        """What a story comes to, with the seconds of its parts: the result of the run, which is complete then."""
        with clock.part("total"):
            facts = story()
        result: dict[str, Any] = plain({**facts, "seconds": clock.seconds})
        if ranks.leads:
            self.write_result(result)
        return result

    def write_result(self, facts: dict[str, Any]) -> None:
        """Mark the run as complete."""
        write_text(self.result, json.dumps(facts, indent=1) + "\n")


def _kept(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}", f"choose another --out, or remove {path}") from error
    return facts


def check_place(path: Path, resume: bool | None) -> None:
    """Refuse a place that `open_run` would refuse; nothing stays there.

    Raises:
        RecipeError, PlaceError: as `open_run` does.
    """
    with storing(path):
        _check_folder(path)
        if path.is_dir():
            _check_use(RunFolder(path), resume)
    check_writable(path / ".lock" if path.is_dir() else path)


@contextmanager
def open_run(path: Path, resume: bool | None) -> Iterator[RunFolder]:
    """Take a folder for a run, alone; `resume` is None where there is nothing to go on with.

    Raises:
        RecipeError: something else lies there, or a run does and `resume` is not true.
        PlaceError: another process is writing there, or the folder cannot be made.
    """
    with storing(path):
        _check_folder(path)
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        had_lock = (path / ".lock").exists()
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (path / ".lock").open("a")
    run = RunFolder(path)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PlaceError(f"{path}: another run is writing there", "wait for it, or choose another --out") from error
        _check_use(run, resume)
        _sweep(path)
        yield run
    finally:
        if not had_lock and not run.recipe.exists():
            _leave_nothing(path, made)
        lock.close()


@contextmanager
def open_shared(path: Path, resume: bool | None, ranks: Ranks) -> Iterator[RunFolder]:
    """The same for several processes that share the run: the leader takes the folder, which all of them read.

    Raises:
        RecipeError, PlaceError: as `open_run` does.
    """
    if not ranks.leads:
        yield RunFolder(path)
        return
    with open_run(path, resume) as run:
        yield run


def _check_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RecipeError(f"{path} is a file, and a run needs a folder", "choose another --out")


def _leave_nothing(path: Path, made: list[Path]) -> None:
    """Take away what was made for a run that never began; rows put aside from a pipe stay, and so does the folder then."""
    half = (stray.name for stray in path.glob(f".{SPOOL}.*"))  # a signal may come as soon as it is made
    for name in (".lock", "choice.json", "mask.safetensors", *half):
        (path / name).unlink(missing_ok=True)
    for folder in made:
        try:
            folder.rmdir()
        except OSError:
            return


def _sweep(path: Path) -> None:
    """Delete what a killed run left half-written: the lock is ours, so nobody is writing it now."""
    for place in (path, RunFolder(path).control.path):
        for stray in place.glob(".*.tmp"):
            remove(stray)


def _check_use(run: RunFolder, resume: bool | None) -> None:
    # What a killed process left, perhaps half-written, of its first files.
    names = {entry.name for entry in run.path.iterdir()} - {".lock", run.stdin.name, run.choice.name, run.mask.name}
    begun = (".recipe.yaml.", *(f".{file.name}." for file in (run.stdin, run.choice, run.mask)))
    others = {name for name in names if not name.startswith(begun)}
    if others and not run.recipe.exists():
        raise RecipeError(
            f"{run.path} holds other files: {sorted(others)[0]}", "choose an empty or a new folder for --out"
        )
    if run.recipe.exists() and not resume:
        state = "a complete run" if run.result.exists() else "an unfinished run"
        go_on = "add --resume to go on with it, or " if resume is not None else ""
        raise RecipeError(f"{run.path} holds {state}", f"{go_on}choose another --out")
