"""The story of few-shot prompting: read -> load -> choose demonstrations -> read them once -> score every row -> report."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from ctxtune.backend.atomic import write_text
from ctxtune.backend.folder import resolve_model
from ctxtune.backend.ranks import ALONE, sharing
from ctxtune.commands import prepare
from ctxtune.commands.asking import Asking
from ctxtune.commands.calibrated import check_calibration, content_free, unasked
from ctxtune.commands.choose import Chooser, check_enough
from ctxtune.commands.clock import Clock
from ctxtune.commands.draws import draw, facts_of, row_by_row
from ctxtune.commands.rows_file import check_rows_file, keep_rows
from ctxtune.commands.save_shots import check_going_on, check_saved, save_shots
from ctxtune.commands.trial import check_order
from ctxtune.commands.written import accepted_answers
from ctxtune.data.encode import EncodeSpec
from ctxtune.data.finite import plain
from ctxtune.errors import ModelError, RecipeError
from ctxtune.methods.fewshot import behind, check_words, formed
from ctxtune.recipe.schema import REPLAYED_SEED, Fewshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base
    from ctxtune.backend.ranks import Ranks
    from ctxtune.data.read import Row
    from ctxtune.methods.fewshot import Groups, Shots
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Recipe

    Load = Callable[[Recipe, Callable[[str], None]], tuple[Base, str]]


def fewshot(
    resolved: Resolved,
    say: Callable[[str], None],
    scores: Path | None = None,
    save: Path | None = None,
    recipe_file: Path | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Ask the rows of `data.eval` behind demonstrations from `data.train`; returns the scores.

    `scores` is a file for what every row gave, `save` a folder for the demonstrations as an adapter, `recipe_file` one for
    the resolved recipe with the hashes of what was read. Several processes, `ranks`, may share the rows.

    Raises:
        CtxtuneError: a wrong recipe, row or model; more demonstrations than the model can read.
    """
    recipe, clock = resolved.recipe, Clock()
    if scores is not None:
        check_rows_file("--scores", scores, recipe)
    with clock.part("total"), sharing(ranks):
        rows, pool, run, settings = prepared(resolved, say, clock, save)
        if recipe_file is not None and ranks.leads:
            write_text(recipe_file, run.recipe_text(resolved, recipe_file.parent))
        with clock.part("choose"):
            choosers = {
                seed: Chooser(pool, settings.drawn(seed), recipe.data.separator, run, say)
                for seed in range(settings.seed, settings.seed + settings.seeds)
            }
            drawn = {seed: chooser.groups(rows) for seed, chooser in choosers.items()}
        for groups in drawn.values():
            check_room(groups, run.spec)
        known = choosers[settings.seed].labelled(rows, drawn.values()) if settings.prior == "auto" else []
        beside = unasked(run, rows, settings, known)
        draws = [draw(run, rows, seed, groups, beside, settings, say) for seed, groups in drawn.items()]
        items = row_by_row(draws)
        facts = facts_of(draws, items, prepare.classes(recipe.data))
        if scores is not None and ranks.leads and (unsaved := keep_rows(scores, items)):
            facts["unsaved"] = unsaved
        if save is not None and ranks.leads:
            with sharing(ALONE):
                shots = choosers[settings.seed].for_all
                facts["adapter"] = save_shots(save, resolved, run, shots, rows, draws[0], say)
    facts = {
        "model": recipe.model,
        "method": settings.model_dump(),
        "eval": recipe.data.eval,
        **facts,
        "tokens": {name: run.counts[name] for name in ("prefix", "read", "kept", "whole")},
        "asked_behind_fewer": sum(one.fewer(settings.shots) for one in draws),
        "seconds": clock.seconds,
    }
    result: dict[str, Any] = plain(facts)
    return result


def prepared(
    resolved: Resolved,
    say: Callable[[str], None],
    clock: Clock | None = None,
    save: Path | None = None,
    load: Load | None = None,
) -> tuple[list[Row], list[Row], Asking, Fewshot]:
    """The rows to ask, and what `opened` gives; all that can be found out before anything is asked has been."""
    recipe, settings = resolved.recipe, checked(resolved.recipe)
    if save is not None:
        check_saved(save, settings, recipe.data)
    asked = _asked(recipe)
    accepted = accepted_answers(recipe, asked)
    plain_spec = prepare.unbound(recipe.data, prepare.compile_templates(recipe.data))
    assert isinstance(plain_spec, EncodeSpec)
    content_free(asked.rows, plain_spec, settings)
    pool, run, settings = opened(resolved, say, clock, load)
    if save is not None:
        check_going_on(run.base)
    run.inputs.update(asked.inputs("eval"))
    run.accepted = accepted
    return asked.rows, pool, run, settings


def checked(recipe: Recipe) -> Fewshot:
    """The method's settings, which fit each other and the data.

    Raises:
        RecipeError: they do not.
    """
    data, settings = recipe.data, recipe.method
    assert isinstance(settings, Fewshot)
    if data.messages is not None:
        raise RecipeError("data.messages: demonstrations are prompts with answers", "write --prompt and --answer")
    if settings.chat and data.on_long == "truncate":
        raise RecipeError("data.on_long truncate: a chat that is cut at its left has no first turn", "error, or drop")
    if data.train == "-":
        raise RecipeError("data.train -: a pipe is read once, and is kept in a run's folder", "name one: --out FOLDER")
    check_calibration(settings, data.choices)
    check_order(settings, data.choices)
    if data.train is None and settings.shots:
        raise RecipeError(
            "data.train is missing: demonstrations come from there", "name a file: --train FILE, or --shots 0"
        )
    return settings


def _asked(recipe: Recipe) -> prepare.Source:
    """The rows to score."""
    data = recipe.data
    if data.eval is None:
        raise RecipeError("data.eval is missing", "name the rows to score: --eval FILE")
    if data.eval == "-":
        raise RecipeError(
            "data.eval -: questions from a pipe are answered as they come, and by `ctxtune fewshot --eval -` alone",
            "name a file",
        )
    if data.choices is None and recipe.score.metric == "likelihood":
        raise RecipeError(
            "data.choices is missing, and score.metric is likelihood: nothing says what is right",
            "list the choices: --choices a,b, or score what is written: --metric exact, f1, bleu ...",
        )
    templates = prepare.compile_templates(data)
    return prepare.read_source(data.eval, data, templates, (recipe.inputs or {}).get("eval"), "eval")


def opened(
    resolved: Resolved, say: Callable[[str], None], clock: Clock | None = None, load: Load | None = None
) -> tuple[list[Row], Asking, Fewshot]:
    """The pool of demonstrations, the model, ready to be asked, and the settings; `load` opens the model in another way.

    Raises:
        CtxtuneError: as in `fewshot`.
    """
    recipe, clock = resolved.recipe, clock or Clock()
    data, settings = recipe.data, checked(recipe)
    templates, known = prepare.compile_templates(data), recipe.inputs or {}
    pool = prepare.read_source(data.train, data, templates, known.get("train"), "train") if data.train else None
    check_enough(len(pool.rows) if pool else 0, settings, data)
    with clock.part("load"):
        base, mark = (load or _load)(recipe, say)
        if load is None:
            prepare.check_model(recipe, mark)
    if base.anatomy.kind != "causal":
        raise ModelError(
            f"a {base.anatomy.family} model {base.anatomy.verb}, it does not go on from examples",
            "choose a causal model",
        )
    spec = prepare.encoder(data, templates, base.tokenizer, base.anatomy, base.max_length)
    assert isinstance(spec, EncodeSpec)
    check_words(spec, settings)
    spec = formed(spec, settings)
    if spec.turns is not None and data.instruction.strip() and not spec.turns.system:
        found = "begins the first turn" if spec.turns.lead else f"is left out, as {settings.replay} does"
        say(f"the model's chat template has no turn of the system's: the instruction {found}")
    if settings.replay is not None and settings.seed != REPLAYED_SEED:
        say(
            f"method.seed is {settings.seed}: {settings.replay} draws by {REPLAYED_SEED} where nothing else is asked for"
        )
    run = Asking(base, mark, recipe, spec, clock, inputs=pool.inputs("train") if pool else {})
    return pool.rows if pool else [], run, settings


def _load(recipe: Recipe, say: Callable[[str], None]) -> tuple[Base, str]:
    folder = resolve_model(recipe.model, say)
    from ctxtune.backend.fingerprint import fingerprint
    from ctxtune.backend.load import load_base

    base = load_base(folder, recipe.device, recipe.quant, dtype=recipe.dtype)
    for remark in base.remarks:
        say(remark)
    return base, fingerprint(folder)


def check_room(groups: Groups, spec: EncodeSpec) -> None:
    """Refuse more demonstrations than fit before the longest question.

    Raises:
        RecipeError: it says how many do.
    """
    if spec.on_long != "error":
        return
    asked = prepare.to_score([row for rows in groups.values() for row in rows], spec)
    longest = {
        id(row): max(len(one.ids) for one in some) for row, some in zip(asked.row_of, asked.requests, strict=True)
    }
    begin = len(spec.encode_front())

    def taken(shots: Shots) -> int:
        return len(behind(shots, spec).encode_front()) - begin

    over = []
    for shots, rows in groups.items():
        room = spec.max_length - max(longest[id(row)] for row in rows)
        if shots and (tokens := taken(shots)) > room:
            fit = bisect_right(range(1, len(shots)), room, key=lambda number: taken(shots[:number]))
            over.append((fit, len(shots), tokens, room, shots[0].where))
    if over:
        fit, number, tokens, room, where = min(over)
        raise RecipeError(
            f"method.shots: {number} demonstrations take {tokens:,} tokens, the longest question leaves {room:,} of "
            f"{spec.max_length:,}",
            f"{fit} fit: --shots {fit}"
            if fit
            else f"shorten {where}, which does not fit alone, or show others: --seed",
        )
