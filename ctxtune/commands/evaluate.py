"""The story of an evaluation: read -> load -> attach -> score -> report."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ctxtune.backend.ranks import check_alone, joined, sharing
from ctxtune.commands import prepare, texts
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.commands.rival import Rival, open_rival
from ctxtune.commands.rows_file import check_rows_file, keep_rows
from ctxtune.commands.run_folder import RunFolder
from ctxtune.commands.written import accepted_answers, written_scores
from ctxtune.data.finite import plain
from ctxtune.data.hash import sha256_fields
from ctxtune.errors import AdapterError, RecipeError
from ctxtune.evals.calibrate import parted
from ctxtune.evals.items import CHOSEN, CLASSIFIED, LIKELY, RUNNING, WRITTEN, Item, measure
from ctxtune.evals.paired import check_same_measure, check_same_rows
from ctxtune.recipe.load import Resolved, load
from ctxtune.recipe.plural import counted
from ctxtune.recipe.read import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.load import Base
    from ctxtune.recipe.schema import Recipe


@dataclass(frozen=True)
class Scored:
    """A result: its scores, and the rows that they are of; `signature` is what else they depend on."""

    scores: dict[str, float]
    items: list[Item]
    signature: str | None = None


@dataclass(frozen=True)
class Below:
    """Layers below `start`, which what is scored does not change: what they say of the rows is kept, and not run again."""

    start: int
    where: str
    mark: str


class Score(Protocol):
    """How rows are scored by an opened base, with an adapter, or a share of it, or without."""

    def __call__(
        self, base: Base, adapter: AdapterFile | None, alpha: float = 1.0, below: Below | None = None
    ) -> Scored: ...


def evaluate(
    source: str | None,
    flags: Mapping[str, object],
    sets: list[str],
    adapter: Path | None,
    force: bool,
    say: Callable[[str], None],
    save: Path | None = None,
    against: str | None = None,
) -> dict[str, Any]:
    """Score a model, with or without an adapter, alone or against another result; returns the scores. Several processes may
    share the rows.

    `unsaved` says why `save` could not be written in the end.

    Raises:
        CtxtuneError: a wrong recipe, row, model or adapter; a result on other rows.
    """
    opened = open_given(adapter)
    recipe = resolve(source, flags, sets, opened, adapter).recipe
    if recipe.data.eval is None:
        raise RecipeError("data.eval is missing", "name the rows to score: --eval FILE")
    if recipe.data.eval == "-":
        check_alone("data.eval -")
    rival = open_rival(against, adapter)
    if save is not None:
        check_rows_file("--save", save, recipe, against)
    score = scorer(recipe, rival, say)
    with joined(recipe.device) as ranks, sharing(ranks):
        say(f"loading {recipe.model}")
        base = load_for(recipe, [one for one in (opened, rival.adapter if rival else None) if one], force, say)
        ours = score(base, opened)
        theirs = rival.items if rival is not None else None
        if rival is not None and theirs is None:
            theirs = score(base, rival.adapter).items
    unsaved = keep_rows(save, ours.items) if save is not None and ranks.leads else None
    scores, calibrations = parted(ours.scores)
    facts = {
        "model": recipe.model,
        "adapter": str(adapter) if adapter else None,
        "eval": recipe.data.eval,
        "scores": plain(scores),
        **({"calibrations": plain(calibrations)} if calibrations else {}),
        **({"signature": ours.signature} if ours.signature else {}),
        **({"unsaved": unsaved} if unsaved else {}),
    }
    if rival is None:
        return facts
    assert theirs is not None
    return {**facts, "against": plain(rival.compared(ours.items, theirs))}


def scorer(recipe: Recipe, rival: Rival | None, say: Callable[[str], None]) -> Score:
    """Read what is to be scored, and return how it is.

    Raises:
        DataError: the rows are wrong, or others than those of the rival.
    """
    templates = prepare.compile_templates(recipe.data)
    text = running_text(recipe) if templates.text is None else None
    rows = prepare.read_once(str(recipe.data.eval), recipe.data, templates, None, "eval") if text is None else None
    accepted = accepted_answers(recipe, rows)
    if rows is not None and rival is not None and rival.items is not None:
        _check_same(recipe, rows, rival.items, rival.name)

    def score(base: Base, adapter: AdapterFile | None, alpha: float = 1.0, below: Below | None = None) -> Scored:
        from ctxtune.adapter.attach import attached
        from ctxtune.commands.behind import open_context, scored_behind

        spec = prepare.encoder(recipe.data, templates, base.tokenizer, base.anatomy, base.max_length)
        if adapter is None and (said := prepare.untrained(base)):
            say(said)
        what = counted(len(rows.rows), "row") if rows is not None else str(recipe.data.eval)
        whose = "" if adapter is None else f" with {f'{alpha:g} of ' * (alpha != 1)}{adapter.path}"
        with heartbeat(say, f"scoring {what}{whose}"), ExitStack() as stack:
            context = open_context(base, adapter)
            if adapter is not None:
                stack.enter_context(attached(base.model, adapter, alpha))
            if context is not None:
                return Scored(*scored_behind(context, rows, spec, recipe, accepted, say))
            if rows is not None and accepted is not None:
                from ctxtune.backend.decode import generate_batch

                write = partial(generate_batch, base, settings=recipe.generate)
                return Scored(*written_scores(base, rows.rows, spec, recipe, accepted, write))
            return _perplexity(base, text, spec.max_length) if text is not None else _score(base, rows, spec, below)

    return score


def _check_same(recipe: Recipe, rows: prepare.Source, theirs: Sequence[Item], who: str) -> None:
    """Refuse what cannot be compared, as far as it is known before a model is loaded.

    Raises:
        DataError: the other rows are others, or were scored otherwise.
    """
    if _one_each(recipe):
        check_same_rows((sha256_fields(row.fields) for row in rows.rows), (item.row for item in theirs), who)
    there, metric = measure(theirs[0].scores), recipe.score.metric
    if recipe.data.choices is not None:
        check_same_measure(there if there == CLASSIFIED else CHOSEN, there, who)
    elif recipe.data.text is not None:
        check_same_measure(RUNNING, there, who)
    else:
        check_same_measure(LIKELY if metric == "likelihood" else WRITTEN, there, who)


def _one_each(recipe: Recipe) -> bool:
    """Whether it is known from the rows alone what is scored: none is dropped, no chat or text becomes several examples."""
    return recipe.data.on_long != "drop" and recipe.data.messages is None and recipe.data.text is None


def open_given(adapter: Path | None) -> AdapterFile | None:
    """The adapter named on the command line; a run's folder stands for the adapter in it."""
    from ctxtune.adapter.read import open_adapter

    return open_adapter(adapter) if adapter is not None else None


def resolve(
    source: str | None, flags: Mapping[str, object], sets: list[str], opened: AdapterFile | None, adapter: Path | None
) -> Resolved:
    """The recipe: the one named, else that of the adapter's run, else what the adapter's manifest says of its data.

    The method plays no part in scoring; a command line without a recipe gets the plainest one.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    if source is not None:
        return load(source, given, sets)
    asked = {*given, *(text.partition("=")[0].strip() for text in sets)}
    remembered = _fitting(_from_manifest(opened), asked) if opened is not None else {}
    found = _from_run(RunFolder(adapter)) if adapter is not None else {}
    return load(None, {"method.name": "freeze", **remembered, **found, **given}, sets)


def _fitting(remembered: dict[str, object], asked: Collection[str]) -> dict[str, object]:
    """What is remembered without the form of rows that what is asked for has no place beside: a text that was learned, say,
    where prompts are to be scored."""
    answers = {"data.prompt", "data.answer", "data.choices", "data.messages", "data.instruction", "data.on_long"}
    gone = {"data.text"} if answers.intersection(asked) else answers if "data.text" in asked else set()
    return {key: value for key, value in remembered.items() if key not in gone}


def _from_run(run: RunFolder) -> dict[str, object]:
    """What the adapter's run folder still finds: its paths are relative to it, and either of them may have moved."""
    if not run.recipe.is_file():
        return {}
    recipe = load(str(run.recipe), {}).recipe
    places = {"model": recipe.model, "data.eval": recipe.data.eval}
    return {
        key: place
        for key, place in places.items()
        if place is not None and (place.startswith("hub:") or Path(place).exists())
    }


def _from_manifest(opened: AdapterFile) -> dict[str, object]:
    """Model, templates and choices as the adapter was trained with them; files of its author are not looked for here."""
    if opened.manifest is None:
        named = (opened.config or {}).get("base_model_name_or_path")
        return {"model": named} if isinstance(named, str) and named else {}
    recipe, _ = parse(opened.manifest.recipe, f"the recipe in {opened.path}")
    sections = {
        name: recipe.get(name, {}) if isinstance(recipe, dict) else {} for name in ("data", "generate", "score")
    }
    kept = {
        f"{name}.{key}": value
        for name, section in sections.items()
        for key, value in section.items()
        if f"{name}.{key}" not in ("data.train", "data.eval", "data.replay") and value is not None
    }
    return {"model": opened.manifest.base.name, "quant": opened.manifest.quant, **kept}


def running_text(recipe: Recipe) -> str | None:
    """The text of a plain text file that is scored as a whole: no choices, and a prompt that nobody wrote."""
    path = recipe.data.eval
    asked = {"prompt", "answer", "messages"} & recipe.data.model_fields_set
    if path is None or recipe.data.choices or asked or not path.endswith(".txt"):
        return None
    return texts.read_text(path, "data.eval")


def load_with(recipe: Recipe, opened: AdapterFile | None, force: bool, say: Callable[[str], None]) -> Base:
    """The base with the adapter attached.

    Raises:
        AdapterError: as in `load_for`.
    """
    from ctxtune.adapter.attach import attach

    base = load_for(recipe, [opened] if opened is not None else [], force, say)
    if opened is not None:
        attach(base.model, opened)
    return base


def load_for(recipe: Recipe, adapters: Sequence[AdapterFile], force: bool, say: Callable[[str], None]) -> Base:
    """The base that adapters will be attached to.

    Raises:
        AdapterError, ModelError: one of them is damaged, or was made on another base, or with another chat template, and
            `force` does not insist.
    """
    from ctxtune.adapter.read import check_base, check_bytes, check_known
    from ctxtune.backend.fingerprint import fingerprint
    from ctxtune.backend.folder import resolve_model
    from ctxtune.backend.load import load_base

    for adapter in adapters:
        check_known(adapter)
    folder = resolve_model(recipe.model, say)
    for adapter in adapters:
        if warning := check_base(adapter, fingerprint(folder), force):
            say(warning)
        check_bytes(adapter)
    wide = [name for adapter in adapters for name in _kept_float(adapter, recipe, folder)]
    base = load_base(folder, recipe.device, recipe.quant, wide, _classes(recipe, adapters), recipe.dtype)
    for remark in base.remarks:
        say(remark)
    for adapter in adapters:
        if adapter.manifest is not None and not force:
            prepare.chat_inputs(recipe.data, base.tokenizer, adapter.manifest.inputs)
    return base


def _kept_float(adapter: AdapterFile, recipe: Recipe, folder: Path) -> Sequence[str]:
    """The parameters whose modules have to be float, as they were when the adapter was trained (depth.moving)."""
    from ctxtune.adapter.change import parameters_of
    from ctxtune.adapter.mask import CONTAINER as MASK
    from ctxtune.backend.device import choose_device
    from ctxtune.backend.skeleton import skeleton

    if adapter.container != MASK:
        return parameters_of(adapter)
    if recipe.quant == "none" or choose_device(recipe.device, recipe.dtype).narrow:
        return ()
    _, anatomy = skeleton(folder, adapter.classes)
    return [name for name in parameters_of(adapter) if not name.startswith(f"{anatomy.blocks}.")]


def _classes(recipe: Recipe, adapters: Sequence[AdapterFile]) -> list[str] | None:
    """The choices of a classifier: those of the recipe, in the order in which each adapter has learned them.

    Raises:
        AdapterError: an adapter tells other classes apart.
    """
    classes = prepare.classes(recipe.data)
    for adapter in adapters:
        own = adapter.classes
        if own and classes != own:
            raise AdapterError(
                f"{adapter.path} tells apart {', '.join(own[:8])}{', ...' * (len(own) > 8)}; data.choices lists others",
                "leave --choices out, or list the same in the same order",
            )
    return classes


def _score(base: Base, rows: prepare.Source | None, spec: prepare.Spec, below: Below | None) -> Scored:
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.judge import Judge

    with Trunk(base, below.start if below is not None else 0) as trunk:
        judge = Judge.make(trunk, rows, spec, None)
        if below is not None:
            judge.keep(below.where, below.mark)
        items = judge.items()
        assert judge.choices is not None
        cut = {"dropped": judge.choices.dropped, "truncated": judge.choices.truncated}
        return Scored({**judge.total(items), **cut}, items)


def _perplexity(base: Base, text: str, max_length: int) -> Scored:
    from ctxtune.backend.trunk import Trunk
    from ctxtune.data.windows import encode_text_windows
    from ctxtune.errors import ModelError
    from ctxtune.evals.choice import Requests
    from ctxtune.evals.perplexity import text_metrics, window_items

    if base.anatomy.kind != "causal":
        raise ModelError(
            f"a {base.anatomy.family} model has no perplexity of running text", "score answers: --prompt, --answer"
        )
    whole = encode_text_windows(base.tokenizer, text, max_length)
    with Trunk(base) as trunk:
        lls = [ll for ll, _ in Requests(trunk, [[window] for window in whole.windows]).loglikelihoods()]
    scores = text_metrics(sum(lls), whole.words, whole.num_bytes, whole.tokens)
    return Scored(scores, window_items(lls, [window.labels for window in whole.windows]))
