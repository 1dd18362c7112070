"""`ctxtune fewshot`: ask a model behind demonstrations, and print how well it answers."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctxtune.cli import console, launch, options

AT_A_TIME = 64  # questions that are asked together, where so many wait
SCORES = (
    "acc", "acc_norm", "acc_bytes", "exact", "f1", "number", "bleu", "chrf", "sentence_bleu", "sentence_chrf", "rouge1",
    "rouge2", "rougeL", "loss",
)  # fmt: skip
MOST_LABELS = 10  # of a confusion matrix that is printed

As = Annotated[str | None, typer.Option("--as", help="Replay another tool, its draws and words: lm-eval.")]
Chat = Annotated[
    bool | None, typer.Option("--chat/--no-chat", help="Demonstrations are turns of a chat.", show_default=False)
]
Select = Annotated[
    str | None, typer.Option("--select", help="fixed, random, balanced, influence, bm25, knn, mmr or cluster.")
]
Seeds = Annotated[int | None, typer.Option("--seeds", help="Draws of demonstrations: mean, worst and spread.")]
Calibrate = Annotated[
    str | None,
    typer.Option("--calibrate", help="What acc goes by: none, contextual, domain, batch, pmi or channel."),
]
Prior = Annotated[
    str | None, typer.Option("--prior", help="Shares of the choices among the rows, split at commas, or auto.")
]
Scores = Annotated[Path | None, typer.Option("--scores", help="Write what every row gave: a .jsonl file.")]
OnError = Annotated[
    str, typer.Option("--on-error", metavar="stop|mark", help="With --eval -, when a row is wrong: stop, or mark it.")
]
Save = Annotated[Path | None, typer.Option("--save", help="Write the examples, read already, as an adapter: a folder.")]

if TYPE_CHECKING:
    from ctxtune.recipe.load import Resolved


def fewshot(
    recipe: options.Recipe = None,
    model: options.Model = None,
    train: options.Train = None,
    eval_: options.Eval = None,
    prompt: options.Prompt = None,
    answer: options.Answer = None,
    choices: options.Choices = None,
    metric: options.Metric = None,
    as_: As = None,
    chat: Chat = None,
    shots: Annotated[int | None, typer.Option("--shots", help="Demonstrations before each question.")] = None,
    select: Select = None,
    order: Annotated[str | None, typer.Option("--order", help="as-is, near-last, global-e or best.")] = None,
    seeds: Seeds = None,
    calibrate: Calibrate = None,
    prior: Prior = None,
    scores: Scores = None,
    save: Save = None,
    on_error: OnError = "stop",
    cache: options.Cache = None,
    out: options.Out = None,
    set_: options.Set = None,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quant: options.Quant = None,
    nproc: launch.Nproc = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Ask a model behind examples; no weight moves.

    The examples are read once, and kept: all questions go on from there, the choices of a question branch from it. The
    numbers are those of reading every text as a whole. --save makes an adapter of them, for eval, generate and PEFT; --out
    keeps it in a folder with the recipe, what every row gave and the result. With --eval - questions come through a pipe,
    one JSON object a line, and each is answered as it comes: one JSON object with its prediction and all choices' scores.
    """
    given = options.flags(
        model=model, data__train=train, data__eval=eval_, data__prompt=prompt, data__answer=answer, data__choices=choices,
        score__metric=metric, method__name="fewshot", method__shots=shots, method__select=select, method__order=order,
        method__seed=seed, method__replay=as_, method__chat=chat, cache=cache,
        method__seeds=seeds, method__calibrate=calibrate, method__prior=options.numbers(prior),
        device=device, dtype=dtype, quant=quant, out=out,
    )  # fmt: skip
    console.Quiet.on = quiet
    launch.hand_on(nproc, here=dry_run)
    from ctxtune.commands.resume import resolve

    resolved = resolve(recipe, given, set_ or [], out, resume)
    _check_on_error(on_error, resolved.recipe.data.eval)
    if dry_run:
        foresee(resolved, json, resume)
        return
    if resolved.recipe.data.eval == "-":
        _stream(resolved, on_error, {"--scores": scores, "--save": save, "--out": out})
        return
    start(resolved, json, scores, save, resume)


def _check_on_error(on_error: str, rows: str | None) -> None:
    from ctxtune.errors import RecipeError

    if on_error not in ("stop", "mark"):
        raise RecipeError(f"--on-error is {on_error!r}, allowed: stop or mark")
    if on_error != "stop" and rows != "-":
        raise RecipeError(f"--on-error {on_error}: rows of a file are checked before any is asked", "--eval -")


def _stream(resolved: "Resolved", on_error: str, places: Mapping[str, Path | None]) -> None:
    """Answer questions as they come; an option that asks to keep something in a place is refused."""
    from ctxtune.backend.ranks import check_alone
    from ctxtune.commands.stream import fewshot_stream
    from ctxtune.data.stream import line_batches
    from ctxtune.errors import DataError, RecipeError

    check_alone("--eval -")
    if sys.stdin is None:
        raise DataError("--eval -: standard input is closed", "pipe JSON lines into the command, or name a file")
    for name in (name for name, place in places.items() if place is not None):
        raise RecipeError(
            f"{name}: the answers to --eval - go to standard output", "write > FILE, or name a file to score"
        )
    for facts in fewshot_stream(resolved, line_batches(sys.stdin.fileno(), AT_A_TIME), on_error, console.note):
        if "error" in facts:
            console.fail(facts["error"], None)
        console.emit_json(facts)


def foresee(resolved: "Resolved", as_json: bool, resume: bool) -> None:
    """Print what it would cost."""
    from ctxtune.commands.dry_fewshot import dry_fewshot

    facts = dry_fewshot(resolved, console.note, resume)
    console.emit(facts, as_json, lambda: _cost_table(facts))


def _cost_table(facts: Mapping[str, Any]) -> Any:
    tokens, method = facts["tokens"], facts["method"]
    most = ", at most: the model itself chooses" if facts["at_most"] else ""
    rows = [
        ["rows", f"{facts['rows']:,}"],
        *([f"rows {key} as too long", f"{facts[key]:,}"] for key in ("dropped", "truncated") if facts[key]),
        ["tokens of the demonstrations", f"{tokens['prefix']:,}"],
        ["tokens to read, of what the texts hold", f"{tokens['read']:,} of {tokens['whole']:,}"],
        ["demonstrations kept, bytes", f"{facts['kept_bytes']:,}"],
        ["weights in memory, bytes", f"{facts['weight_bytes']:,}"],
    ]
    title = f"{facts['model']}, {method['shots']} shots, {method['select']}{most} (nothing was asked)"
    return console.grid(title, ["", ""], rows)


def start(
    resolved: "Resolved", as_json: bool, scores: Path | None = None, save: Path | None = None, resume: bool = False
) -> None:
    """Ask, and print the result; a recipe that names a folder for its run gets one."""
    if resume and resolved.recipe.out is None:
        from ctxtune.errors import RecipeError

        raise RecipeError("--resume: what has no folder keeps nothing to go on with", "name its folder: --out runs/...")
    from ctxtune.backend.ranks import joined

    with joined(resolved.recipe.device) as ranks:
        if resolved.recipe.out is not None:
            from ctxtune.commands.fewshot_run import fewshot_run

            facts = fewshot_run(resolved, resume, console.note, scores, save, ranks)
        else:
            from ctxtune.commands.fewshot import fewshot as ask

            facts = ask(resolved, console.note, scores, save, ranks=ranks)
    console.emit(facts, as_json, lambda: _table(facts))
    console.check_kept(facts)
    if "adapter" in facts:
        console.note("adapter: {folder}: {demonstrations} demonstrations, {tokens:,} tokens".format(**facts["adapter"]))


def _table(facts: Mapping[str, Any]) -> Any:
    scores, tokens = facts["scores"], facts["tokens"]
    rows = [["rows", f"{scores['rows']:,}"]]
    over = facts.get("spread", {})
    rows += [[key, _told(scores, key, over.get(key))] for key in SCORES if key in scores]
    calibrations, chosen = facts["calibrations"], facts["method"]["calibrate"]
    if chosen in calibrations:
        rows.append(["expected calibration error", f"{calibrations[chosen]['ece']:.4f}"])
    rows += [
        [console.calibrated(name), _told(found, "acc", found.get("spread"))]
        for name, found in calibrations.items()
        if len(calibrations) > 1
    ]
    if "signature" in facts:
        rows.append(["signature", facts["signature"]])
    rows += [[f"rows {key} as too long", f"{scores[key]:,}"] for key in ("dropped", "truncated") if scores[key]]
    if scores.get("unfinished"):
        rows.append(["answers that had not ended", f"{scores['unfinished']:,}"])
    if facts["asked_behind_fewer"]:
        rows.append(["rows that are demonstrations, asked behind the others", f"{facts['asked_behind_fewer']:,}"])
    if facts["prefixes"] > 1:
        rows.append(["sets of demonstrations", f"{facts['prefixes']:,}"])
    if facts["method"]["prior"] is not None:
        rows.append(["shares of the labels taken for granted", _shares(facts)])
    kept = f", {tokens['kept']:,} kept from before" if tokens["kept"] else ""
    rows.append(
        ["tokens read for the rows, of what the texts hold", f"{tokens['read']:,} of {tokens['whole']:,}{kept}"]
    )
    rows.append(["seconds", f"{facts['seconds']['total']:.1f}"])
    table = console.grid(_title(facts), ["", ""], rows)
    confused, draws = facts["confusion"], _draws(facts["method"])
    return _with_confusion(table, draws, **confused) if confused and len(confused["labels"]) <= MOST_LABELS else table


def _title(facts: Mapping[str, Any]) -> str:
    """What was asked for: all that is not as it would be anyway."""
    method = facts["method"]
    parts = [
        f"order {method['order']}" if method["order"] != "auto" else "",
        f"{method['calibrate']} calibration" if method["calibrate"] != "none" else "",
        method["replay"] or "",
        "chat" * method["chat"],
    ]
    form = "".join(f", {part}" for part in parts if part)
    return f"{facts['model']}, {method['shots']} shots, {method['select']}{_draws(method)}{form}"


def _draws(method: Mapping[str, Any]) -> str:
    return f", {method['seeds']} draws" if method["seeds"] > 1 else ""


def _with_confusion(table: Any, draws: str, labels: list[str], counts: list[list[int]]) -> Any:
    from rich.console import Group
    from rich.markup import escape

    labels = [escape(label) for label in labels]
    rows = [[label, *(f"{count:,}" for count in row)] for label, row in zip(labels, counts, strict=True)]
    return Group(
        table, console.grid(f"Rows by their label (down) and what was answered (across){draws}", ["", *labels], rows)
    )


def _shares(facts: Mapping[str, Any]) -> str:
    """Those that were given, or were estimated from the rows."""
    prior = facts["method"]["prior"]
    shares: list[float] = list((facts["label_shares"] or {}).values()) if prior == "auto" else prior
    return ", ".join(f"{share / sum(shares):.2f}" for share in shares) + (" (auto)" if prior == "auto" else "")


def _told(scores: Mapping[str, Any], key: str, spread: Mapping[str, float] | None) -> str:
    """A score with its standard error over the rows, and how far draws of demonstrations lie apart."""
    worst = f", worst of the draws {spread['worst']:.4f}, deviation {spread['deviation']:.4f}" if spread else ""
    return console.with_error(scores, key) + worst
