"""`ctxtune freeze` and `ctxtune run`: adapt a model, print what it cost and what it brought."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctxtune.cli import console, fewshot, launch, options, pretrain
from ctxtune.cli.voice import speaking

if TYPE_CHECKING:
    from ctxtune.recipe.load import Resolved


def freeze(
    recipe: options.Recipe = None,
    model: options.Model = None,
    train: options.Train = None,
    eval_: options.Eval = None,
    prompt: options.Prompt = None,
    answer: options.Answer = None,
    choices: options.Choices = None,
    messages: options.Messages = None,
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="last:4, first:2, 10-19, last:4.mlp, last:4+norms, embeddings, head, all, auto."),
    ] = None,
    lr_decay: Annotated[
        float | None, typer.Option("--lr-decay", help="Each layer's rate, of the one above it.")
    ] = None,
    unfreeze: Annotated[
        str | None, typer.Option("--unfreeze", help="at_once, or gradual: one more layer an epoch.")
    ] = None,
    sample: Annotated[int | None, typer.Option("--sample", help="Layers that move at a time, drawn by lot.")] = None,
    epochs: options.Epochs = None,
    batch: options.Batch = None,
    lr: options.Rate = None,
    forget_budget: options.ForgetBudget = None,
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
    """Train some layers, keep the rest as they are.

    The frozen layers below run once over the data; every later pass starts from what they said.
    """
    given = options.flags(
        model=model, data__train=train, data__eval=eval_, data__prompt=prompt, data__answer=answer, data__choices=choices,
        data__messages=messages,
        method__name="freeze", method__layers=layers, method__lr_decay=lr_decay, method__unfreeze=unfreeze,
        method__sample=sample, train__epochs=epochs, train__batch=batch, train__lr=lr, train__seed=seed,
        forget__budget=forget_budget, cache=cache,
        device=device, dtype=dtype, quant=quant, out=out,
    )  # fmt: skip
    launch.hand_on(nproc, here=dry_run)
    start(recipe, given, set_ or [], out, resume, dry_run, json, quiet)


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a bundled one.")],
    out: options.Out = None,
    set_: options.Set = None,
    nproc: launch.Nproc = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Do what a recipe says, whatever its method."""
    launch.hand_on(nproc, here=dry_run)
    start(recipe, options.flags(out=out), set_ or [], out, resume, dry_run, json, quiet)


def start(
    recipe: str | None, given: Mapping[str, object], sets: list[str], out: Path | None,
    resume: bool, dry_run: bool, as_json: bool, quiet: bool, sharded: bool = False,
) -> None:  # fmt: skip
    """Resolve the recipe, do or foresee the run, print the result."""
    console.Quiet.on = quiet
    from ctxtune.commands.resume import resolve

    resolved = resolve(recipe, given, sets, out, resume)
    if resolved.recipe.method.name == "fewshot":
        if dry_run:
            fewshot.foresee(resolved, as_json, resume)
        else:
            fewshot.start(resolved, as_json, resume=resume)
        return
    if resolved.recipe.method.name == "pretrain":
        pretrain.start(resolved, resume, dry_run, as_json, sharded)
        return
    if sharded:
        from ctxtune.errors import RecipeError

        raise RecipeError("--fsdp shares out the numbers of a new model, and this is one that goes on", "--nproc alone")
    if dry_run:
        from ctxtune.commands.dry_run import dry_run as foresee

        facts = foresee(resolved, console.note, resume)
        console.emit(facts, as_json, lambda: _cost_table(facts))
        return
    facts = adapt_loudly(resolved, resume)
    console.emit(facts, as_json, lambda: result_table(facts))
    if facts["adapter"]:
        console.note(f"adapter: {facts['adapter']['folder']}")


def adapt_loudly(resolved: "Resolved", resume: bool) -> dict[str, Any]:
    """Run with progress on standard error."""
    from ctxtune.commands.adapt import adapt

    with speaking() as voice:
        return adapt(resolved, resume, voice)


def _cost_table(facts: Mapping[str, Any]) -> Any:
    names = {
        "trainable": "trainable numbers",
        "parameters": "of the model's",
        "weight_bytes": "weights in memory, bytes",
        "adapter_tensor_bytes": "adapter, bytes of tensors",
        "run_bytes": "the run's folder, bytes: checkpoint, best step, adapter",
        "rows": "training rows",
        "eval_rows": "rows to score",
        "tokens": "tokens an epoch",
        "supervised_tokens": "supervised tokens",
        "dropped": "rows dropped as too long",
        "truncated": "rows cut as too long",
        "steps": "steps",
        "start_layer": "layers run once",
        "cache_bytes": "cache, bytes",
    }
    if _added(facts["method"]):
        names["parameters"] = "numbers of the model, none of which moves"
    rows = [[text, f"{facts[key]:,}"] for key, text in names.items()] + [["folder of the run", facts["out"]]]
    if facts["trial_steps"]:
        rows.append(["trial steps of lr: auto, at most", f"{facts['trial_steps']:,}"])
    if "control" in facts:
        rows.append(["steps with a random mask, to compare with", f"{facts['control']['steps']:,}"])
    if "choice_tokens" in facts:
        rows.append(["tokens of the rows that are read to choose the mask", f"{facts['choice_tokens']:,}"])
    if "minded_tokens" in facts:
        rows.append(["tokens of other text read for it, once a base", f"{facts['minded_tokens']:,}"])
    if "guard_tokens" in facts:
        rows.append(["tokens that the forgetting budget adds to a step", f"{facts['guard_tokens']:,}"])
    if "replay" in facts:
        rows.append(["tokens that are of the text learned again", f"{facts['replay']['share']:.1%}"])
    if "teacher_tokens" in facts:
        rows.append(["tokens of the demonstrations that are distilled", f"{facts['teacher_tokens']:,}"])
    layers = f"{named(facts['method'])}{', at most ' + facts['at_most'] if facts['at_most'] else ''}"
    return console.grid(f"{facts['model']}, {layers} (nothing was trained)", ["", ""], rows)


_BEFORE, _LOSS, _APART = "tokens before a text", "loss of the right choice, nats", "KL(teacher || ...), nats a row"


def result_table(facts: Mapping[str, Any]) -> Any:
    """Base and tuned side by side: the task, the forgetting, the cost; beside them what they are compared with."""
    start, teacher, control = (facts.get(key) for key in ("start", "teacher", "control"))
    tuned = {key: facts[key]["after"] for key in ("scores", "forgetting")}
    sides = [one for one in (start, tuned, control) if one is not None]
    told = [facts["scores"]["before"], *(one["scores"] for one in sides)]
    rows = _measured(told, [facts["forgetting"]["before"], *(one["forgetting"] for one in sides)])
    rows += [[name, base, *[""] * bool(start), cell] for name, base, cell in _costs(facts)]
    titles = ["", "base", *(["start"] if start else []), "tuned"]
    if teacher is not None:
        beside = _beside(teacher)
        rows.insert(0, [_BEFORE, "0", *[f"{facts['method']['tokens']:,}"] * (len(titles) - 2)])
        titles, rows = [*titles, "teacher"], [[*row, beside.get(row[0], "")] for row in rows]
    title = f"{facts['model']}, {named(facts['method'])}"
    if control is None:
        return console.grid(title, titles, rows)
    cells = {"trained numbers": f"{control['trainable']:,}", "seconds": f"{facts['seconds']['control']:.0f}"}
    rows = [row if len(row) > len(titles) else [*row, cells.get(row[0], "")] for row in rows]
    return _with_verdict(console.grid(title, [*titles, "random mask"], rows), facts)


def _with_verdict(table: Any, facts: Mapping[str, Any]) -> Any:
    """Whether a chosen mask was worth its choice, in a line below."""
    from rich.console import Group
    from rich.text import Text

    return Group(table, Text(f"{named(facts['method'])}: {facts['control']['verdict']}"))


def _measured(told: Sequence[Mapping[str, Any]], moved: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """The rows of what was scored, and of what was forgotten."""
    rows = [
        [key, *(console.with_error(scores, key) for scores in told)]
        for key in ("acc", "acc_norm", "perplexity", "bits_per_byte", "greedy_acc")
        if key in told[-1]
    ]
    if "acc" in told[-1]:
        rows.append([_LOSS, *(f"{scores['loss']:.4f}" for scores in told)])
    if "kl_teacher" in told[-1]:
        rows.append([_APART, *(f"{scores['kl_teacher']:.4f}" for scores in told)])
    if "kl" in moved[-1]:
        rows.append(["probe loss, nats a token", *(f"{one['loss']:.4f}" for one in moved)])
        rows.append(["KL(base || tuned), nats a token", "0", *(_nats(one["kl"]) for one in moved[1:])])
    if "task_kl" in moved[-1]:
        a_row = "row" if "acc" in told[-1] else "token"
        rows.append([f"the same on rows to score, nats a {a_row}", "0", *(_nats(one["task_kl"]) for one in moved[1:])])
    return rows


def _nats(value: float) -> str:
    """What is forgotten; where that is little, how little."""
    return f"{value:.4f}" if not 0 < value < 5e-4 else f"{value:.1e}"


def _costs(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What else a run tells: a name, the base's, the tuned model's."""
    trained = f"{facts['trainable']:,}" + ("" if _added(facts["method"]) else f" of {facts['parameters']:,}")
    rows = [("forgetting", "", "not measured")] if "not_measured" in facts["forgetting"] else []
    if (guard := facts.get("guard")) is not None:
        kept = "kept" if guard["kept"] else "NOT KEPT"
        taken = f", {guard['share']:.0%} of the changes are left for it" if guard["share"] < 1 else ""
        rows.append(
            ("budget, nats a token", "", f"{guard['budget']:g}, {kept}, at weight {guard['weight']:.2g}{taken}")
        )
        rows.append(("KL on the budget's own text", "", f"{guard['kl']:.4f}, {guard['tokens_a_step']:,} tokens a step"))
    rows += [
        ("trained numbers", "0", trained),
        ("adapter", "", f"{facts['adapter']['bytes'] / 1e6:.1f} MB"),
        ("steps", "", f"{facts['steps']} at rates up to {facts.get('highest_rate', facts['lr']['value']):.1e}"),
        ("seconds", "", f"{facts['seconds']['total']:.0f} (training loop {facts['seconds']['loop']:.0f})"),
    ]
    if (cost := facts.get("penalty")) is not None:
        rows.append(_cost(cost))
    if (again := facts.get("replay")) is not None:
        rows.append(("learned again", "", f"{again['share']:.1%} of the tokens, from {again['path']}"))
    if facts["best_step"] != facts["steps"]:
        best = "the lowest eval loss" if facts.get("teacher") is None else "the nearest to the teacher"
        rows.append(("kept", "", f"step {facts['best_step']}, {best}"))
    return rows


def _cost(cost: Mapping[str, Any]) -> tuple[str, str, str]:
    """What changes cost, or which of them gates let stay."""
    if "gates" in cost:
        return "chosen", "", f"{cost['kept']:,} of {cost['candidates']:,} numbers, by {cost['gates']:,} gates"
    if "off" in cost:
        return "switched off", "0", f"{cost['off']:,} of {cost['weights']:,} weights"
    return "cost of the changes", "0", f"{cost['value']:.3g}, {cost['zeros']:.1%} of them are 0"


def _beside(teacher: Mapping[str, Any]) -> dict[str, str]:
    """What stands beside a prompt in the column of the long one that it was distilled from."""
    scores = teacher["scores"]
    found = {key: console.with_error(scores, key) for key in ("acc", "acc_norm") if key in scores}
    loss = {_LOSS: f"{scores['loss']:.4f}", _APART: "0"} if scores else {}
    return {_BEFORE: f"{teacher['tokens']:,}", **found, **loss}


def _added(method: Mapping[str, Any]) -> bool:
    """Whether what is trained is no part of the model."""
    return bool(method["name"] == "prompt")


def named(method: Mapping[str, Any]) -> str:
    """What a run trains, in a word or two."""
    if method["name"] == "mask" and method["learn"] == "bits":
        return f"bits of {method['layers']}"
    if method["name"] == "mask":
        whole = method["select"] in ("bias", "norms")
        return f"{method['select']}{'' if whole else ' ' + method['shape']}"
    return f"{method['kind']} of {method['tokens']}" if method["name"] == "prompt" else str(method["layers"])
