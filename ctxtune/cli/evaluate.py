"""`ctxtune eval`: how well a model does a task, with or without an adapter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ctxtune.cli import console, launch, options


def evaluate(
    recipe: options.Recipe = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    eval_: options.Eval = None,
    prompt: options.Prompt = None,
    answer: options.Answer = None,
    choices: options.Choices = None,
    messages: options.Messages = None,
    metric: options.Metric = None,
    save: Annotated[Path | None, typer.Option("--save", help="Write what every row gave: a .jsonl file.")] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Compare with: a file that --save wrote, an adapter, or base."),
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option(
            "--alpha", help="Score shares of the adapter, and how far each is from the base: 0,0.5,1, or grid."
        ),
    ] = None,
    set_: options.Set = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quant: options.Quant = None,
    force: options.Force = False,
    nproc: launch.Nproc = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score a model on rows: accuracy by choices, or perplexity.

    With --choices: acc, acc_norm and acc_bytes with standard errors, by lm-evaluation-harness's rules. Without: how likely
    the answers are, or, with --metric, what the model writes compared with them. A .txt file with neither --prompt nor
    --answer: perplexity by word and byte, bits per byte. With an adapter of ctxtune the recipe may be left out: the adapter
    remembers it. With --against: the difference in each score on the same rows, its 95 % interval (paired bootstrap) and
    the p of a sign test (McNemar's, for hits and misses). With --alpha: a table of W + alpha (W' - W), base to adapter.
    """
    console.Quiet.on = quiet
    launch.hand_on(nproc, here=alpha is not None)
    from ctxtune.commands import evaluate as command

    given = options.flags(
        model=model, data__eval=eval_, data__prompt=prompt, data__answer=answer, data__choices=choices,
        data__messages=messages, score__metric=metric, device=device, dtype=dtype, quant=quant,
    )  # fmt: skip
    if alpha is not None:
        _interpolate(recipe, given, set_ or [], adapter, alpha, (save is not None, against is not None), force, json)
        return
    facts = command.evaluate(recipe, given, set_ or [], adapter, force, console.note, save, against)
    console.emit(facts, json, lambda: _table(facts))
    console.check_kept(facts)


def _interpolate(
    recipe: str | None, given: Mapping[str, object], sets: list[str], adapter: Path | None, alpha: str,
    beside: tuple[bool, bool], force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Score and measure shares of an adapter, print the table."""
    from ctxtune.commands.interpolate import alphas_of, interpolate
    from ctxtune.errors import RecipeError

    for given_too, name in zip(beside, ("--save", "--against"), strict=True):
        if given_too:
            raise RecipeError(f"{name} is for one result, --alpha gives several", f"leave {name} out")
    facts = interpolate(recipe, given, sets, adapter, alphas_of(alpha), force, console.note)
    console.emit(facts, as_json, lambda: _alphas(facts))


def _alphas(facts: Mapping[str, Any]) -> Any:
    first = facts["alphas"][0]
    named = [key for key, value in first["scores"].items() if not (key.endswith("_stderr") or isinstance(value, int))]
    moved = [(key, title) for key, title in (("kl", "KL(base || it)"), ("probe_loss", "probe loss")) if key in first]
    rows = [
        [f"{one['alpha']:g}", *(console.with_error(one["scores"], key) for key in named)]
        + [f"{one[key]:.4f}" for key, _ in moved]
        for one in facts["alphas"]
    ]
    title = f"{facts['model']} with shares of {facts['adapter']} on {facts['eval']}, nats a token on the probe"
    return console.grid(title, ["alpha", *named, *(title for _, title in moved)], rows)


def _table(facts: Mapping[str, Any]) -> Any:
    from rich.console import Group

    scores = facts["scores"]
    rows = []
    for key, value in scores.items():
        if key.endswith("_stderr"):
            continue
        rows.append([key, f"{value:,}" if isinstance(value, int) else console.with_error(scores, key)])
    for name, found in facts.get("calibrations", {}).items():
        rows.append([console.calibrated(name), console.with_error(found, "acc")])
    if "signature" in facts:
        rows.append(["signature", facts["signature"]])
    who = f"{facts['model']} with {facts['adapter']}" if facts["adapter"] else str(facts["model"])
    table = console.grid(f"{who} on {facts['eval']}", ["", ""], rows)
    return Group(table, _differences(facts["against"])) if "against" in facts else table


def _differences(against: Mapping[str, Any]) -> Any:
    columns = ["", against["name"], "difference", "95 % interval", "higher / lower rows", "p"]
    calibrations = {console.calibrated(name): found["acc"] for name, found in against["calibrations"].items()}
    rows = [
        [name, f"{one['other']:.4f}", *_difference(one), f"{one['higher']} / {one['lower']}", f"{one['p']:.2g}"]
        for name, one in {**against["differences"], **calibrations}.items()
    ]
    rows += [[name, "", "not comparable", "", "", ""] for name in against["left_out"]]
    return console.grid(f"against {against['name']}, on the same rows", columns, rows)


def _difference(one: Mapping[str, Any]) -> tuple[str, str]:
    """The mean and its interval; what rounding leaves where no row differs is no difference."""
    if not one["higher"] + one["lower"]:
        return "equal", "equal in every row"
    return f"{one['difference']:+.4f}", f"{one['low']:+.4f} .. {one['high']:+.4f}"
