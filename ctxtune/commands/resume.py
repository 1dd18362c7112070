"""A run that goes on: its own recipe, and rows from a pipe that cannot be read twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.commands import prepare
from ctxtune.commands.deeper import is_open
from ctxtune.commands.run_folder import RunFolder
from ctxtune.commands.sources import check_scored
from ctxtune.data.open import SPOOL
from ctxtune.errors import DataError, RecipeError
from ctxtune.recipe import keys
from ctxtune.recipe.load import Resolved, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ctxtune.recipe.data import Data
    from ctxtune.recipe.schema import Recipe


def resolve(
    recipe: str | None, given: Mapping[str, object], sets: list[str], out: Path | None, resume: bool
) -> Resolved:
    """The recipe of a command line. A run that is to go on, of which nothing else is said, has its own.

    Raises:
        RecipeError: it is wrong, or nobody says which run.
    """
    told = any(value is not None for key, value in given.items() if key not in ("out", "method.name"))
    if not resume or recipe is not None or told or sets:
        return load(recipe, given, sets)
    if out is None:
        raise RecipeError("--resume needs to know which run", "name its folder: --out runs/...")
    return resume_recipe(out)


def resume_recipe(out: Path) -> Resolved:
    """The recipe of a run that is to go on.

    Raises:
        RecipeError: no run lies there.
    """
    run = RunFolder(out)
    if not run.recipe.exists():
        raise RecipeError(f"{out} holds no run to resume", "name the recipe as well, or the --out of an earlier run")
    return _kept(run, {"out": str(out)})


def taken_up(
    run: RunFolder, asked: Resolved, resume: bool, say: Callable[[str], None],
    check: Callable[[Path, Data], None] | None = None,
) -> tuple[Resolved, dict[str, Any] | None]:  # fmt: skip
    """The recipe of a run that begins or goes on, and its result where it is complete; `check` as of `spooled`.

    Raises:
        RecipeError, DataError: as `same_recipe`, `spooled` and `check_unchanged` do.
    """
    if resume and not run.recipe.exists():
        say(f"{run.path} holds no run to go on with: this one starts from the beginning")
    resolved = same_recipe(run, asked) if run.recipe.exists() else spooled(run, asked, resume, check)
    if (done := run.read_result()) is not None:
        check_unchanged(resolved.recipe)
        say(f"{run.path} is complete: nothing to resume")
    return resolved, done


def same_recipe(run: RunFolder, asked: Resolved) -> Resolved:
    """The recipe of the run, which must be the one asked for: half a run of each would be neither."""
    kept = _kept(run, {})
    ours, theirs = _comparable(kept.recipe), _comparable(asked.recipe)
    # What a run put in the place of these stands in its own recipe.
    piped = Path(str(ours["data.train"])).name == SPOOL and theirs["data.train"] == "-"
    found: dict[str, object] = {"method.tokens": "auto", **({"data.train": "-"} if piped else {})}
    if run.choice.exists():
        found |= {"method.layers": "auto", "train.lr": "transfer" if ours["method.name"] == "pretrain" else "auto"}
    if "method.compile" in ours:
        found["method.compile"] = "auto"
    if ours.get("method.minutes") is not None:
        found["train.steps"] = None
        if is_open(asked):
            found["method.depth"] = theirs["method.depth"]
    for key in ours:
        if ours[key] != theirs[key] and not (key in found and theirs[key] == found[key]):
            raise RecipeError(
                f"{run.recipe}: {key} is {ours[key]!r}, but {theirs[key]!r} is asked for",
                "resume with the values of the run, or choose another --out",
            )
    if piped and run.stdin.exists():
        _check_pipe(run)
    return kept


def check_unchanged(recipe: Recipe) -> None:
    """Refuse to tell the result of a complete run as that of rows which are others now. Rows that are gone are no others.

    Raises:
        DataError: as a run says it that is not complete.
    """
    for key, paths in (("train", recipe.data.train), ("eval", recipe.data.eval)):
        if paths is not None and all(Path(part.path).exists() for part in prepare.parts_of(paths)):
            prepare.checked_files(paths, (recipe.inputs or {}).get(key), key)


def spooled(
    run: RunFolder, resolved: Resolved, resume: bool, check: Callable[[Path, Data], None] | None = None
) -> Resolved:
    """Rows from a pipe are put into the run's folder first: a pipe cannot be read twice, and a run can be resumed.

    `check` reads them; it is that of rows with prompts and answers where none is given.

    Raises:
        RecipeError: a template is wrong, or the rows to score come through the pipe as well.
        DataError: nothing comes through the pipe, or rows that are wrong: they do not stay.
    """
    if resolved.recipe.data.train != "-":
        return resolved
    from ctxtune.data.read import spool_stdin

    check_scored(resolved.recipe.data)
    data = resolved.recipe.data.model_copy(update={"train": str(run.stdin.resolve())})
    kept = replace(resolved, recipe=resolved.recipe.model_copy(update={"data": data}))
    prepare.compile_templates(data)
    try:
        spool_stdin(run.stdin)
    except DataError:
        # Killed before its recipe was written, a run has used up its pipe: the rows lie here already.
        if resume and run.stdin.exists():
            return kept
        raise
    try:
        (check or _check_rows)(run.stdin, data)
    except DataError:
        run.stdin.unlink()
        raise
    return kept


def _check_rows(path: Path, data: Data) -> None:
    prepare.read_source(str(path), data, prepare.compile_templates(data), None, "train")


def _kept(run: RunFolder, flags: Mapping[str, object]) -> Resolved:
    """The recipe that lies in a run's folder.

    Raises:
        RecipeError: it is wrong; nothing is left in it.
    """
    if run.recipe.stat().st_size == 0:
        raise RecipeError(f"{run.recipe} is empty: nothing says how the run goes on", "choose another --out")
    return load(str(run.recipe), flags)


def _check_pipe(run: RunFolder) -> None:
    """A pipe that comes again, if it does, must hold the rows that the run has put aside.

    Raises:
        DataError: it holds others.
    """
    from ctxtune.data.hash import sha256_file
    from ctxtune.data.read import hash_stdin

    again = hash_stdin()
    if again is not None and again != sha256_file(run.stdin):
        raise DataError(
            f"standard input has other rows than those that {run.path} has begun with",
            f"pipe the same rows, or none: {run.stdin} keeps them; or choose another --out",
        )


def _comparable(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in keys.leaves(recipe) if key not in ("inputs", "out")}
