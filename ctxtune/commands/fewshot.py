"""The story of few-shot prompting: read -> load -> choose demonstrations -> read them once -> score every row -> report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ctxtune.backend.folder import resolve_model
from ctxtune.commands import prepare
from ctxtune.commands.calibrated import answered, check_calibration, unasked
from ctxtune.commands.choose import Chooser
from ctxtune.commands.clock import Clock
from ctxtune.data.encode import EncodeSpec, content, encode_choices
from ctxtune.data.finite import plain
from ctxtune.errors import ModelError, RecipeError
from ctxtune.evals.items import Item, write_items
from ctxtune.methods.fewshot import behind
from ctxtune.recipe.schema import Fewshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ctxtune.backend.load import Base
    from ctxtune.backend.trunk import Trunk
    from ctxtune.data.encode import ChoiceSet
    from ctxtune.data.read import Row
    from ctxtune.methods.fewshot import Groups
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Recipe

_LEAST = 16  # tokens from which a prefix is worth a pass of its own


def fewshot(resolved: Resolved, say: Callable[[str], None], save: Path | None = None) -> dict[str, Any]:
    """Ask the rows of `data.eval` behind demonstrations from `data.train`; returns the scores.

    Raises:
        CtxtuneError: a wrong recipe, row or model; more demonstrations than the model can read.
    """
    recipe = resolved.recipe
    settings = recipe.method
    assert isinstance(settings, Fewshot)
    clock = Clock()
    with clock.part("total"):
        pool, asked, templates = _sources(recipe, settings)
        with clock.part("load"):
            base, mark = _load(recipe, say)
        spec = prepare.encoder(recipe.data, templates, base.tokenizer, base.anatomy, base.max_length)
        assert isinstance(spec, EncodeSpec)
        run = Asking(base, mark, recipe.cache, spec, clock)
        with clock.part("choose"):
            groups = Chooser(pool, settings, recipe.data.separator, run).groups(asked.rows)
        _check_room(groups, spec)
        answers = answered(run, asked.rows, groups, unasked(run, asked.rows, settings), settings, say)
    if save is not None:
        write_items(save, answers.items)
    scores, calibrations = answers.summary()
    facts = {
        "model": recipe.model,
        "method": settings.model_dump(),
        "eval": recipe.data.eval,
        "scores": {**scores, "dropped": run.counts["dropped"], "truncated": run.counts["truncated"]},
        "calibrations": calibrations,
        "label_shares": answers.shares,
        "shots": list(dict.fromkeys(shot.where for shots in groups for shot in shots)),
        "prefixes": len(groups),
        "tokens": {name: run.counts[name] for name in ("prefix", "read", "kept", "whole")},
        "asked_behind_fewer": sum(len(rows) for shots, rows in groups.items() if len(shots) < settings.shots),
        "seconds": clock.seconds,
    }
    result: dict[str, Any] = plain(facts)
    return result


def _sources(recipe: Recipe, settings: Fewshot) -> tuple[list[Row], prepare.Source, prepare.Templates]:
    data, known = recipe.data, recipe.inputs or {}
    if data.eval is None:
        raise RecipeError("data.eval is missing", "name the rows to score: --eval FILE")
    if data.choices is None or data.messages is not None:
        raise RecipeError("few-shot prompting scores choices, and data.choices is missing", "list them: --choices a,b")
    check_calibration(settings, data.choices)
    if data.train is None and settings.shots:
        raise RecipeError(
            "data.train is missing: demonstrations come from there", "name a file: --train FILE, or --shots 0"
        )
    templates = prepare.compile_templates(data)
    pool = prepare.read_source(data.train, data, templates, known.get("train"), "train").rows if data.train else []
    return pool, prepare.read_source(data.eval, data, templates, known.get("eval"), "eval"), templates


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
        room = spec.max_length - max(len(one.ids) for row in encode_choices(rows, spec).requests for one in row)
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


@dataclass
class Asking:
    """Rows asked behind demonstrations; `counts` adds up what was read for it, in tokens.

    `whole` is what all requests hold, each in full; `read` what was run instead, the prefix included; `kept` what an earlier
    run had read.
    """

    base: Base
    mark: str
    where: str
    spec: EncodeSpec
    clock: Clock
    counts: Counter[str] = field(default_factory=Counter)

    def items(self, rows: list[Row], groups: Groups, beside: Sequence[Row] = ()) -> list[Item | None]:
        """What every row gave, in the order of the rows, None where it was dropped; then what those `beside` them gave.

        Those are asked behind most of the demonstrations, and are no rows of the result: they count in what was read alone.
        """
        from ctxtune.backend.trunk import Trunk

        found: dict[int, Item] = {}
        most = max(groups, key=len)  # all but one, where each row is one of them
        with Trunk(self.base) as trunk:
            for shots, some in groups.items():
                spec = behind(shots, self.spec)
                with self.clock.part("encode"):
                    choices = encode_choices(some, spec)
                    self.counts.update(dropped=choices.dropped, truncated=choices.truncated)
                    if shots == most:
                        choices = choices.followed_by(encode_choices(beside, replace(spec, on_long="drop")))
                if choices.requests:
                    found |= {
                        id(row): item for row, item in zip(choices.row_of, self._scored(trunk, choices), strict=True)
                    }
        return [found.get(id(row)) for row in (*rows, *beside)]

    def _scored(self, trunk: Trunk, choices: ChoiceSet) -> list[Item]:
        from ctxtune.backend.prefix import read_prefix
        from ctxtune.commands.judge import Judge
        from ctxtune.evals.choice import Requests, common_prefix

        tokens = common_prefix(choices.requests)
        prefix = None
        if len(tokens) >= _LEAST and trunk.goes_on:
            with self.clock.part("prefix"):
                again = (
                    self.where if len(choices.requests) > 1 else "off"
                )  # what one question asks for nobody asks again
                prefix = read_prefix(trunk, tokens, again, self.mark)
            self.counts["prefix"] += len(tokens)
            self.counts["kept" if prefix.place == "kept" else "read"] += len(tokens)
        with self.clock.part("score"):
            requests = Requests(trunk, choices.requests, prefix)
            self.counts["read"] += sum(requests.feed.lengths)
            self.counts["whole"] += choices.tokens
            return Judge(choices, requests, None).items()
