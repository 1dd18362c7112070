"""What `ctxtune prompt --search` refuses, does and prints: words, not vectors, that ask better."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctxtune.cli import console

if TYPE_CHECKING:
    from ctxtune.recipe.load import Resolved

Search = Annotated[
    bool, typer.Option("--search", help="Find a better prompt in words, and train nothing: writes a few-shot recipe.")
]
Candidates = Annotated[
    int | None, typer.Option("--candidates", help="Prompts that --search begins with.", show_default="64")
]
CANDIDATES = 64
_TAKEN = ("method.name", "method.shots", "method.init", "train.seed")  # of the options of training
_LONGEST = 60  # letters of a prompt in the table of rounds


def start(
    search: bool, candidates: int | None, recipe: str | None, given: Mapping[str, object], sets: list[str], resume: bool,
    dry_run: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Resolve the recipe, do or foresee the search, print what was found. `given` are the options as for training."""
    console.Quiet.on = quiet
    from ctxtune.errors import RecipeError
    from ctxtune.recipe.load import load

    if not search:
        raise RecipeError("--candidates: nothing is searched", "add --search, or leave it out")
    flags, words = _few_shot(given, sets, resume)
    resolved = load(recipe, flags, sets)
    count = CANDIDATES if candidates is None else candidates
    if dry_run:
        _foresee(resolved, count, words, as_json)
        return
    if resolved.recipe.out is None:
        raise RecipeError(
            "out is missing: the recipe that is found needs a place", "name a new folder: --out runs/words"
        )
    from ctxtune.commands.search import search as find

    facts = find(resolved, Path(resolved.recipe.out), count, words, console.note)
    console.emit(facts, as_json, lambda: _tables(facts))
    rows = "" if facts["eval"] else " --eval ROWS"
    console.note(f"recipe: {facts['recipe']}: `ctxtune fewshot {facts['recipe']}{rows}` asks by it")


def _few_shot(given: Mapping[str, object], sets: Sequence[str], resume: bool) -> tuple[dict[str, object], str | None]:
    """The options as those of a few-shot recipe, and the user's own words.

    Raises:
        RecipeError: one of them is of training.
    """
    from ctxtune.errors import RecipeError
    from ctxtune.recipe.start import words_of

    trains = [key for key in given if key.startswith(("method.", "train.")) and key not in _TAKEN]
    trained = {"--resume": resume or None} | {
        f"--{key.partition('.')[2].replace('_', '-')}": given[key] for key in trains
    }
    named = {text.partition("=")[0].strip(): text for text in sets}
    trained |= {f"--set {key}": text for key, text in named.items() if key == "method.name" or key.startswith("train.")}
    if (name := next((name for name, value in trained.items() if value is not None), None)) is not None:
        raise RecipeError(f"{name}: --search finds words and trains nothing", f"leave {name} out, or --search")
    init = given["method.init"]
    words = words_of(str(init)) if init is not None else None
    if init is not None and not words:
        raise RecipeError(f"--init is {init!r}: a search starts from words", "--init 'text:Is the review good or bad?'")
    kept = {key: value for key, value in given.items() if key not in (*trains, "method.init", "train.seed")}
    return {**kept, "method.name": "fewshot", "method.seed": given["train.seed"]}, words


def _foresee(resolved: "Resolved", count: int, words: str | None, as_json: bool) -> None:
    from ctxtune.commands.dry_search import dry_search

    facts = dry_search(resolved, count, words, console.note)
    names = {
        "candidates": "candidates to begin with",
        "tried_rows": "rows to choose by, at most",
        "confirm_rows": "rows to confirm by",
        "eval_rows": "rows to score",
        "asked": "questions in all",
        "read": "tokens to read, about",
        "whole": "tokens of all texts in full, about",
        "weight_bytes": "weights in memory, bytes",
    }
    rows = [[text, f"{facts[key]:,}"] for key, text in names.items()]
    title = f"{facts['model']}, {facts['shots']} shots (nothing was asked)"
    console.emit(facts, as_json, lambda: console.grid(title, ["", ""], rows))


def _tables(facts: Mapping[str, Any]) -> Any:
    from rich.console import Group
    from rich.markup import escape

    rounds = [
        [*_of_round(one, place), f"{best['loss']:.4f}", f"{best['acc']:.4f}", escape(_short(best))]
        for one in facts["rounds"]
        for place, best in enumerate(one["best"][:3])
    ]
    columns = ["candidates", "rows", "loss", "acc", "the best of them"]
    tables = [console.grid(f"{facts['model']}, {facts['shots']} shots: rounds on training rows", columns, rounds)]
    said = [[name, escape(repr(facts["best"][name]))] for name in ("instruction", "prompt", "seed")]
    tables.append(console.grid(_verdict(facts), ["", ""], said + _scores(facts)))
    return Group(*tables)


def _of_round(one: Mapping[str, Any], place: int) -> list[str]:
    """What a round's first line alone says."""
    return ["", ""] if place else [f"{one['candidates']:,}", f"{one['rows']:,}"]


def _short(candidate: Mapping[str, Any]) -> str:
    text = f"{candidate['instruction']}{candidate['prompt']}".encode("unicode_escape").decode("ascii")
    return f"{text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'} (seed {candidate['seed']})"


def _verdict(facts: Mapping[str, Any]) -> str:
    if facts["better"]:
        return "Better on rows that had no part in the choice; the recipe has these words"
    if facts["best"] == facts["first"]:
        return "No better than what you had: the recipe's own words won, and stay"
    return "No better than what you had on new rows: the recipe keeps its own words, not these"


def _scores(facts: Mapping[str, Any]) -> list[list[str]]:
    """Before, after and the difference, with standard errors."""
    parts = {"new training rows": facts["confirmed"], "eval rows": facts.get("scores")}
    rows = []
    for name, found in parts.items():
        for key in ("acc", "loss") if found is not None else ():
            rows.append([f"{key}, {found['first']['rows']:,} {name}", _change(found, key)])
    tokens = facts["tokens"]
    rows.append(["tokens read, of what the texts hold", f"{tokens['read']:,} of {tokens['whole']:,}"])
    return [*rows, ["seconds", f"{facts['seconds']['total']:.1f}"]]


def _change(found: Mapping[str, Any], key: str) -> str:
    before = console.with_error(found["first"], key)
    if "gain" not in found:
        return before
    gain, error = found["gain"][key], found["gain"][f"{key}_stderr"]
    return f"{before} to {console.with_error(found['best'], key)}, {gain:+.4f} ± {error:.4f}"
