"""The story of few-shot prompting: read -> load -> choose demonstrations -> read them once -> score every row -> report."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ctxtune.backend.folder import resolve_model
from ctxtune.commands import prepare
from ctxtune.commands.asking import Asking
from ctxtune.commands.calibrated import check_calibration, unasked
from ctxtune.commands.choose import Chooser
from ctxtune.commands.clock import Clock
from ctxtune.commands.draws import draw, facts_of, row_by_row
from ctxtune.commands.trial import check_order
from ctxtune.commands.written import accepted_answers
from ctxtune.data.encode import EncodeSpec, content
from ctxtune.data.finite import plain
from ctxtune.errors import ModelError, RecipeError
from ctxtune.evals.items import write_items
from ctxtune.recipe.schema import Fewshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base
    from ctxtune.data.read import Row
    from ctxtune.methods.fewshot import Groups
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Recipe


def fewshot(resolved: Resolved, say: Callable[[str], None], save: Path | None = None) -> dict[str, Any]:
    """Ask the rows of `data.eval` behind demonstrations from `data.train`; returns the scores.

    Raises:
        CtxtuneError: a wrong recipe, row or model; more demonstrations than the model can read.
    """
    recipe, clock = resolved.recipe, Clock()
    with clock.part("total"):
        _checked(recipe)
        asked = _asked(recipe)
        pool, run, settings = opened(resolved, say, clock)
        run.accepted = accepted_answers(recipe, asked)
        with clock.part("choose"):
            drawn = {
                seed: Chooser(pool, settings.drawn(seed), recipe.data.separator, run, say).groups(asked.rows)
                for seed in range(settings.seed, settings.seed + settings.seeds)
            }
        for groups in drawn.values():
            _check_room(groups, run.spec)
        beside = unasked(run, asked.rows, settings)
        draws = [draw(run, asked.rows, seed, groups, beside, settings, say) for seed, groups in drawn.items()]
    items = row_by_row(draws)
    if save is not None:
        write_items(save, items)
    facts = {
        "model": recipe.model,
        "method": settings.model_dump(),
        "eval": recipe.data.eval,
        **facts_of(draws, items, prepare.classes(recipe.data)),
        "tokens": {name: run.counts[name] for name in ("prefix", "read", "kept", "whole")},
        "asked_behind_fewer": sum(one.fewer(settings.shots) for one in draws),
        "seconds": clock.seconds,
    }
    result: dict[str, Any] = plain(facts)
    return result


def _checked(recipe: Recipe) -> Fewshot:
    """The method's settings, which fit each other and the data."""
    data, settings = recipe.data, recipe.method
    assert isinstance(settings, Fewshot)
    if data.messages is not None:
        raise RecipeError("data.messages: demonstrations are prompts with answers", "write --prompt and --answer")
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
    if data.choices is None and recipe.score.metric == "likelihood":
        raise RecipeError(
            "data.choices is missing, and score.metric is likelihood: nothing says what is right",
            "list the choices: --choices a,b, or score what is written: --metric exact, f1, bleu ...",
        )
    templates = prepare.compile_templates(data)
    return prepare.read_source(data.eval, data, templates, (recipe.inputs or {}).get("eval"), "eval")


def opened(
    resolved: Resolved, say: Callable[[str], None], clock: Clock | None = None
) -> tuple[list[Row], Asking, Fewshot]:
    """The pool of demonstrations, the model, ready to be asked, and the method's settings.

    Raises:
        CtxtuneError: as in `fewshot`.
    """
    recipe, clock = resolved.recipe, clock or Clock()
    data, settings = recipe.data, _checked(recipe)
    templates, known = prepare.compile_templates(data), recipe.inputs or {}
    pool = prepare.read_source(data.train, data, templates, known.get("train"), "train").rows if data.train else []
    with clock.part("load"):
        base, mark = _load(recipe, say)
    spec = prepare.encoder(data, templates, base.tokenizer, base.anatomy, base.max_length)
    assert isinstance(spec, EncodeSpec)
    return pool, Asking(base, mark, recipe, spec, clock), settings


def _load(recipe: Recipe, say: Callable[[str], None]) -> tuple[Base, str]:
    from ctxtune.backend.fingerprint import fingerprint
    from ctxtune.backend.load import load_base

    folder = resolve_model(recipe.model, say)
    base = load_base(folder, recipe.device, recipe.quant, dtype=recipe.dtype)
    for remark in base.remarks:
        say(remark)
    if base.anatomy.kind != "causal":
        raise ModelError(
            f"a {base.anatomy.family} model {base.anatomy.verb}, it does not go on from examples",
            "choose a causal model",
        )
    return base, fingerprint(folder)


def _check_room(groups: Groups, spec: EncodeSpec) -> None:
    """Refuse more demonstrations than fit before the longest question.

    Raises:
        RecipeError: it says how many do.
    """
    if spec.on_long != "error":
        return
    over = []
    for shots, rows in groups.items():
        room = spec.max_length - max(len(one.ids) for row in prepare.to_score(rows, spec).requests for one in row)
        ends = [*accumulate(len(one["input_ids"]) for one in content(spec.tokenizer, [shot.text for shot in shots]))]
        if shots and ends[-1] > room:
            over.append((sum(end <= room for end in ends), len(shots), ends[-1], room))
    if over:
        fit, number, tokens, room = min(over)
        raise RecipeError(
            f"method.shots: {number} demonstrations take {tokens:,} tokens, the longest question leaves {room:,} of "
            f"{spec.max_length:,}",
            f"{fit} fit: --shots {fit}",
        )
