"""What few-shot prompting would read and keep, before it starts: from the rows, the tokenizer and the model's skeleton."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxtune.backend.folder import resolve_model
from ctxtune.commands.asking import LEAST, together
from ctxtune.commands.choose import Chooser
from ctxtune.commands.dry_run import weights_in_memory
from ctxtune.commands.fewshot import check_room, prepared
from ctxtune.commands.run_folder import check_place
from ctxtune.commands.written import last_answer
from ctxtune.data.branch import grow, shared
from ctxtune.methods.fewshot import by_shots, shots_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ctxtune.backend.load import Base
    from ctxtune.commands.asking import Asking
    from ctxtune.data.encode import ChoiceSet
    from ctxtune.data.read import Row
    from ctxtune.methods.fewshot import Groups
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Recipe

    Cost = tuple[tuple[int, ...], int, int]
    """what a pass begins with, the tokens behind it, and those of all its texts"""


def dry_fewshot(resolved: Resolved, say: Callable[[str], None], resume: bool = False) -> dict[str, Any]:
    """Check everything that can be checked without the weights; returns counts and bytes.

    Tokens are those of the rows: what is tried to find an order, or asked beside the rows, comes on top; what is written
    counts at its longest. Where the model itself chooses demonstrations, the longest ones are counted, `at_most`.

    Raises:
        CtxtuneError: whatever the run itself would meet before it asks the model.
    """
    recipe = resolved.recipe
    if recipe.out is not None:
        check_place(Path(recipe.out), resume)
    rows, pool, run, settings = prepared(resolved, say, load=bare)
    from ctxtune.backend.prefix import bytes_a_token

    at_most = settings.select in ("knn", "mmr", "cluster", "influence")
    draws: list[Groups] = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        order = "as-is" if settings.on_trial else settings.order
        drawn = settings.drawn(seed).model_copy(update={"order": order})
        chooser = Chooser(pool, drawn, recipe.data.separator, run, say)
        draws.append(_longest(rows, pool, chooser) if at_most else chooser.groups(rows))
        check_room(draws[-1], run.spec)
    counts: Counter[str] = Counter()
    for one in _counted(run, draws):
        counts.update(one)
    if at_most and settings.by_question:
        counts["read"] = counts["whole"]
    return {
        "model": recipe.model,
        "method": settings.model_dump(),
        "at_most": at_most,
        "eval": recipe.data.eval,
        "rows": len(rows),
        "dropped": run.counts["dropped"],
        "truncated": run.counts["truncated"],
        "tokens": {name: counts[name] for name in ("prefix", "read", "whole")},
        "kept_bytes": counts["kept"] * bytes_a_token(run.base.model),
        "parameters": run.base.parameters,
        "weight_bytes": weights_in_memory(recipe, run.base.model, run.base.anatomy, run.base.folder, {}),
    }


def _longest(rows: Sequence[Row], pool: Sequence[Row], chooser: Chooser) -> Groups:
    """The rows behind the longest demonstrations of the pool, as many as are asked for."""
    shots = shots_of(pool, chooser.asking.spec, chooser.separator)
    order = sorted(shots, key=lambda shot: -len(shot.text))[: chooser.settings.shots]
    return by_shots(rows, tuple(order), chooser.asking.spec)


def _counted(run: Asking, draws: Sequence[Groups]) -> Iterator[dict[str, int]]:
    """What each pass costs, as `Asking` does it: what is not kept goes on from the prefix before."""
    last: tuple[int, ...] = ()
    for part in (part for groups in draws for part in together(groups, max(groups, key=len))):
        asked, rows = run.encoded(part, ())
        if not asked.requests:
            continue
        front, behind, whole = (chosen_cost if run.accepted is None else _written)(asked, run)
        kept = run.recipe.cache != "off" and rows > 1
        known = 0 if kept else len(shared([last, front]))
        last = front or last
        read = len(front) - known + behind
        yield {"prefix": len(front), "read": read, "whole": whole, "kept": len(front) * kept}


def chosen_cost(asked: ChoiceSet, run: Asking) -> Cost:
    """Rows with choices, each row's in one tree."""
    from ctxtune.backend.prefix import Prefix
    from ctxtune.evals.choice import behind, common_prefix

    front = _worth_a_pass(common_prefix(asked.requests))
    prefix = Prefix(front, [], "off")
    trees = {grow([behind(prefix, one) for one in group])[0] for group in asked.requests}
    return front, sum(len(tree.ids) for tree in trees), asked.tokens


def _written(asked: ChoiceSet, run: Asking) -> Cost:
    """Rows whose answer the model writes, as long as it may."""
    prompts = [last_answer(one)[0] for (one,) in asked.requests]
    front = _worth_a_pass(shared(prompts)[: min(map(len, prompts)) - 1])
    most = run.recipe.generate.max_tokens
    whole = sum(min(len(prompt) + most, run.base.max_length) for prompt in prompts)
    return front, whole - len(prompts) * len(front), whole


def _worth_a_pass(front: tuple[int, ...]) -> tuple[int, ...]:
    return front if len(front) >= LEAST else ()


def bare(recipe: Recipe, say: Callable[[str], None]) -> tuple[Base, str]:
    """The model without its numbers, which nothing stands for."""
    from ctxtune.backend.context import context_length
    from ctxtune.backend.device import choose_device
    from ctxtune.backend.load import Base
    from ctxtune.backend.skeleton import check_headers, skeleton
    from ctxtune.backend.tokenizer import load_tokenizer

    folder = resolve_model(recipe.model, say)
    model, anatomy = skeleton(folder)
    check_headers(model, anatomy, folder)
    config: Any = model.config
    told = config.get_text_config()
    base = Base(
        model=model,
        tokenizer=load_tokenizer(folder),
        anatomy=anatomy,
        device=choose_device(recipe.device, recipe.dtype),
        folder=folder,
        max_length=context_length(told.to_dict()),
        width=told.hidden_size,
        vocabulary=told.vocab_size,
        attention="",
        quant=recipe.quant,
        parameters=sum(param.numel() for param in model.parameters()),
    )
    return base, ""
