"""The story of a search for better words: read -> load -> candidates -> rounds on held-out rows -> try the best anew -> write.

Rows of `data.train` have one use each: to be demonstrations, to choose by, or to confirm what was chosen. Those of `data.eval`
are scored at the end and decide nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from ctxtune.backend.atomic import write_text
from ctxtune.commands import prepare
from ctxtune.commands.calibrated import unasked
from ctxtune.commands.clock import Clock
from ctxtune.commands.draws import draw, facts_of, row_by_row
from ctxtune.commands.fewshot import check_room, checked, opened
from ctxtune.commands.run_folder import open_run
from ctxtune.commands.tried import Tries, shown, written
from ctxtune.data.finite import plain
from ctxtune.data.forms import forms, instructions
from ctxtune.data.shots import in_shares
from ctxtune.errors import DataError, RecipeError
from ctxtune.evals.items import mean_and_error, summarise
from ctxtune.methods.fewshot import by_shots
from ctxtune.methods.search import Candidate, first, halve, plan
from ctxtune.recipe import keys
from ctxtune.recipe.plural import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ctxtune.commands.fewshot import Load
    from ctxtune.data.read import Row
    from ctxtune.evals.items import Item
    from ctxtune.methods.search import Round
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Fewshot, Recipe

LEAST_ROWS = 16  # in the first round, and to confirm by
_MOST_ROWS = 512  # in the last round
_CONFIRM = 256
_DRAWS = 4  # sets of demonstrations
_TOLD = 5  # of each round
_COMPARED = ("acc", "loss")


@dataclass
class Start:
    """What a search starts from: the candidates, how they are tried, the rows to confirm by, and those to score."""

    candidates: list[Candidate]
    tries: Tries
    rounds: list[tuple[int, int]]
    confirm: list[Row]
    eval: list[Row]
    chance: Random


def search(
    resolved: Resolved, folder: Path, count: int, words: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Find words for a few-shot recipe; write the recipe and the result to the folder, and return the result.

    `count` is how many candidates there are at first, `words` an instruction that is one of them.

    Raises:
        CtxtuneError: a wrong recipe, row, model or place; too few rows.
    """
    check(resolved.recipe, count)
    with open_run(folder, resume=None) as run:
        clock = Clock()
        with clock.part("total"):
            start = begun(resolved, count, words, say, clock)
            facts, kept = _done(start, resolved.recipe, say)
        facts |= {"recipe": str(run.recipe), "seconds": clock.seconds}
        result: dict[str, Any] = plain(facts)
        write_text(run.recipe, start.tries.run.recipe_text(_resolved(resolved, kept), folder))
        run.write_result(result)
    return result


def check(recipe: Recipe, count: int) -> Fewshot:
    """Refuse, before anything is read, what cannot be searched; returns the method's settings.

    Raises:
        RecipeError: it says what can.
    """
    settings, data = checked(recipe), recipe.data
    if count < 2:
        raise RecipeError(f"--candidates {count}: there is nothing to choose from", "--candidates 64")
    if data.choices is None:
        raise RecipeError(
            "data.choices is missing: candidates are compared by how likely the right choice is, and a free answer has none",
            "list what may be answered: --choices a,b",
        )
    if data.train is None:
        raise RecipeError("data.train is missing: candidates are tried on its rows", "name a file: --train FILE")
    if data.eval == "-":
        raise RecipeError("data.eval -: a pipe is read once, and a search scores two recipes", "name a file")
    if settings.by_question or settings.on_trial or settings.select == "influence" or settings.replay is not None:
        what = f"replay {settings.replay}" if settings.replay else f"select {settings.select}, order {settings.order}"
        raise RecipeError(
            f"method: {what}: a search draws its demonstrations by lot, the same for all questions",
            "--set method.select=balanced, random or fixed, and order auto",
        )
    if settings.calibrate != "none" or settings.seeds > 1:
        key = "calibrate" if settings.calibrate != "none" else "seeds"
        raise RecipeError(
            f"method.{key} {getattr(settings, key)}: a search compares words by one draw as it is",
            f"leave it out, and give --{key} to `ctxtune fewshot` with the recipe that is found",
        )
    return settings


def begun(
    resolved: Resolved, count: int, words: str | None, say: Callable[[str], None], clock: Clock,
    load: Load | None = None,
) -> Start:  # fmt: skip
    """Read the rows, open the model (`load`: in another way), and make the candidates."""
    recipe = resolved.recipe
    asked: list[Row] = []
    inputs: dict[str, str] = {}
    if recipe.data.eval is not None:
        known = (recipe.inputs or {}).get("eval")
        source = prepare.read_source(
            recipe.data.eval, recipe.data, prepare.compile_templates(recipe.data), known, "eval"
        )
        asked, inputs = source.rows, source.inputs("eval")
    pool, run, settings = opened(resolved, say, clock, load)
    run.inputs.update(inputs)
    labels = [run.spec.bare.render(row).gold or 0 for row in pool]
    tries = Tries(run, settings, pool, labels)
    seeds = _seeds(tries)
    left = _left(tries, seeds)
    rows = [pool[left[place]] for place in in_shares([labels[place] for place in left], settings.seed)]
    confirm = min(_CONFIRM, len(rows) // 2)
    tries.rows = rows[confirm:][:_MOST_ROWS]
    chance = Random(f"search {settings.seed}")
    candidates = _first(recipe, words, seeds, count, chance)
    found = Start(candidates, tries, [], rows[:confirm], asked, chance)
    found.rounds = plan(len(candidates), LEAST_ROWS, len(tries.rows))
    shots = tries.shots(candidates[0], run.spec)
    for some in (tries.rows, found.confirm, found.eval):
        check_room(by_shots(some, shots, run.spec), run.spec)
    return found


def _seeds(tries: Tries) -> list[int]:
    """Draws of demonstrations, all different: several, as long as they leave half of the rows."""
    settings = tries.settings
    most = min(_DRAWS, len(tries.pool) // (2 * settings.shots)) if settings.shots else 1
    seeds = [(settings.seed + number) % 2**32 for number in range(max(1, most))]
    drawn = {tuple(tries.places(seed)): seed for seed in reversed(seeds)}
    return sorted(drawn.values(), key=seeds.index)


def _left(tries: Tries, seeds: Sequence[int]) -> list[int]:
    """The places of the rows that no candidate shows.

    Raises:
        DataError: too few to choose by and to confirm by.
    """
    taken = shown(tries, seeds)
    left = [place for place in range(len(tries.pool)) if place not in taken]
    if len(left) < 2 * LEAST_ROWS:
        raise DataError(
            f"data.train: {counted(len(left), 'row')} of {len(tries.pool):,} are no demonstrations, a search takes"
            f" {2 * LEAST_ROWS}: half to choose by, half to confirm by",
            "name more rows with --train, or fewer --shots",
        )
    return left


def _first(recipe: Recipe, words: str | None, seeds: Sequence[int], count: int, chance: Random) -> list[Candidate]:
    """The recipe as it is, and what else the grammar and the user's own words make of it."""
    data = recipe.data
    listed = data.choices if isinstance(data.choices, list) else []
    own = [data.instruction, *([words + data.separator] if words else []), ""]
    said = [*own, *instructions(data.prompt, listed, data.separator)]
    asked = forms(data.prompt, listed)
    return first(Candidate(data.instruction, data.prompt, seeds[0]), said, asked, seeds, count, chance)


def _done(start: Start, recipe: Recipe, say: Callable[[str], None]) -> tuple[dict[str, Any], Candidate]:
    """Do the rounds, try the best against the first on new rows, and score both: the facts, and which of the two is kept."""
    tries = start.tries

    def tried(candidates: Sequence[Candidate], rows: int) -> Sequence[Any]:
        say(f"{counted(len(candidates), 'candidate')} on {counted(rows, 'row')}")
        with tries.run.clock.part("rounds"):
            return tries(candidates, rows)

    own = start.candidates[0]
    rounds = halve(start.candidates, start.rounds, tried, start.chance)
    best = rounds[-1].ranked[0][0] if rounds else own
    confirmed = None
    if best != own:
        say(f"the best against the recipe as it was, on {counted(len(start.confirm), 'new row')}")
        with tries.run.clock.part("confirm"):
            confirmed = _compared([tries.asked(one).items_of(start.confirm) for one in (own, best)])
    better = confirmed is not None and confirmed["differences"]["loss"]["high"] < 0 <= confirmed["gain"]["acc"]
    kept, counts = best if better else own, tries.run.counts
    facts: dict[str, Any] = {
        "model": recipe.model,
        "train": recipe.data.train,
        "eval": recipe.data.eval,
        "shots": tries.settings.shots,
        "candidates": len(start.candidates),
        "rounds": [_told(one) for one in rounds],
        "first": asdict(own),
        "best": asdict(best),
        "better": better,
        "confirmed": confirmed,
        "tokens": {name: counts[name] for name in ("prefix", "read", "kept", "whole")},
    }
    if start.eval:
        say(f"scoring {counted(len(start.eval), 'row')} of data.eval, which had no part in it")
        facts["scores"] = _scored(start, own, best, say)
    return facts, kept


def _told(one: Round) -> dict[str, Any]:
    best = [{**asdict(candidate), **asdict(trial)} for candidate, trial in one.ranked[:_TOLD]]
    return {"rows": one.rows, "candidates": len(one.ranked), "best": best}


def _compared(both: Sequence[Sequence[Item | None]]) -> dict[str, Any] | None:
    """The second against the first on the rows that both have scored; None where there is no second, or no row."""
    from ctxtune.evals.paired import compare

    pairs = [pair for pair in zip(*both, strict=True) if None not in pair]
    if len(both) < 2 or not pairs:
        return None
    theirs, ours = zip(*pairs, strict=True)
    gain: dict[str, float] = {}
    for name in _COMPARED:
        gaps = [our.scores[name] - their.scores[name] for their, our in pairs]
        gain[name], gain[f"{name}_stderr"] = mean_and_error(gaps)
    differences = compare(ours, theirs, "the recipe as it was")
    return {
        "first": summarise(theirs),
        "best": summarise(ours),
        "gain": gain,
        "differences": {name: asdict(one) for name, one in differences.items()},
    }


def _scored(start: Start, own: Candidate, best: Candidate, say: Callable[[str], None]) -> dict[str, Any]:
    """The rows of `data.eval` by both recipes, as `ctxtune fewshot` scores them."""
    tries, rows = start.tries, start.eval
    scores, items = [], []
    with tries.run.clock.part("eval"):
        for one in dict.fromkeys([own, best]):
            run = tries.opened(one)
            groups = by_shots(rows, tries.shots(one, run.spec), run.spec)
            check_room(groups, run.spec)
            settings = tries.settings.drawn(one.seed)
            done = draw(run, rows, one.seed, groups, unasked(run, rows, settings), settings, say)
            items.append(row_by_row([done]))
            scores.append(facts_of([done], items[-1], prepare.classes(run.recipe.data))["scores"])
    told = {"first": scores[0], "best": scores[-1]}
    compared = _compared([[_part(item) for item in some] for some in items])
    return {**told, "gain": compared["gain"], "differences": compared["differences"]} if compared else told


def _part(item: Item) -> Item:
    return replace(item, scores={name: item.scores[name] for name in _COMPARED})


def _resolved(resolved: Resolved, candidate: Candidate) -> Resolved:
    """The recipe of a candidate; what the search has set says so."""
    recipe = written(resolved.recipe, candidate)
    before = dict(keys.leaves(resolved.recipe))
    new = {key: "search" for key, value in keys.leaves(recipe) if value != before[key]}
    return replace(resolved, recipe=recipe, origin=resolved.origin | new)
