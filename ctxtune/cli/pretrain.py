"""`ctxtune pretrain`: a new model from text alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctxtune.cli import console, options
from ctxtune.cli.voice import speaking

if TYPE_CHECKING:
    from ctxtune.recipe.load import Resolved

Text = Annotated[
    list[str] | None,
    typer.Option("--train", help="The corpus: txt, jsonl, parquet, a folder of texts ... Several may be named."),
]
HeldOut = Annotated[
    str | None, typer.Option("--eval", help="Text to score; without it the end of each file is held out.")
]


def pretrain(
    recipe: options.Recipe = None,
    train: Text = None,
    eval_: HeldOut = None,
    arch: Annotated[str | None, typer.Option("--arch", help="llama, qwen3, gpt2 or neox.")] = None,
    depth: Annotated[int | None, typer.Option("--depth", help="Layers: the one dial, which sets the rest.")] = None,
    params: Annotated[
        str | None, typer.Option("--params", help="Numbers of the model, about, in place of --depth: 3M.")
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option("--vocabulary", help="Tokens of the tokenizer that is learned from the corpus.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="A given one: a folder, or a tokenizer.json.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option("--optimizer", help="muon or adamw.")] = None,
    epochs: options.Epochs = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps, in place of --epochs.")] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="How long it learns, in place of --epochs.")
    ] = None,
    batch: options.Batch = None,
    lr: options.Rate = None,
    out: options.Out = None,
    set_: options.Set = None,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a new model, and its tokenizer, from text alone.

    The text is tokenised once. What comes out is a folder that transformers loads, and every other command here.
    """
    from ctxtune.cli import freeze

    given = options.flags(
        data__train=train, data__eval=eval_, method__name="pretrain", method__arch=arch, method__depth=depth,
        method__params=params, method__minutes=minutes,
        method__vocabulary=vocabulary, method__tokenizer=tokenizer, train__optimizer=optimizer, train__epochs=epochs,
        train__steps=steps, train__batch=batch, train__lr=lr, train__seed=seed, device=device, dtype=dtype, out=out,
    )  # fmt: skip
    freeze.start(recipe, given, set_ or [], out, resume, dry_run, json, quiet)


def start(resolved: "Resolved", resume: bool, dry_run: bool, as_json: bool) -> None:
    """Do or foresee the run, print the result."""
    from ctxtune.commands.pretrain import dry_run as foresee
    from ctxtune.commands.pretrain import pretrain as make

    with speaking() as voice:
        facts = foresee(resolved, voice, resume) if dry_run else make(resolved, resume, voice)
    if dry_run:
        console.emit(facts, as_json, lambda: _cost_table(facts))
        return
    console.emit(facts, as_json, lambda: result_table(facts))
    console.note(f"model: {facts['saved']['folder']}")


def _title(facts: Mapping[str, Any]) -> str:
    method = facts["method"]
    return f"{method['arch']} of {method['depth']} layers, {facts['parameters']:,} numbers"


def _corpus(corpus: Mapping[str, Any], kept: bool) -> list[list[Any]]:
    train, held = corpus["train"], corpus["held_out"]
    again = {"same": "to the letter", "near": "nearly"}
    said = ", ".join(f"{count:,} {again[how]}" for how, count in corpus["again"].items() if count)
    return [
        ["documents", f"{train['documents']:,}"],
        *([["documents that stood there already", f"{said}, {'kept' if kept else 'left out'}"]] if said else []),
        ["tokens to learn", f"{train['tokens']:,} of {corpus['vocabulary']:,} kinds, in {corpus['rows']:,} rows"],
        ["tokens held out", f"{held['tokens']:,}"],
    ]


def _steps(facts: Mapping[str, Any]) -> str:
    if facts["steps"] is None:
        return f"as many as {facts['method']['minutes']:g} minutes hold"
    return f"{facts['steps']:,}, {facts['epochs']:.2f} times over the corpus"


def _cost_table(facts: Mapping[str, Any]) -> Any:
    rows = [
        *_corpus(facts["corpus"], facts["method"]["duplicates"] == "keep"),
        ["steps", _steps(facts)],
        ["highest rate", f"{facts['lr']:.1e}"],
        ["the run's folder, bytes", f"{facts['run_bytes']:,}"],
        ["folder of the run", facts["out"]],
    ]
    return console.grid(f"{_title(facts)} (nothing was trained)", ["", ""], rows)


def _used(facts: Mapping[str, Any]) -> str:
    """How much of what the machine can multiply."""
    used = facts["tokens_per_second"] * facts["flop_a_token"] / facts["product_rate"]
    return f"{used:.0%} of the {facts['product_rate'] / 1e9:,.0f} GFLOP/s that a large product reaches here"


def result_table(facts: Mapping[str, Any]) -> Any:
    """What was learned, from what, and how fast."""
    after, seconds = facts["scores"]["after"], facts["seconds"]
    rows = [
        ["bits per byte of what is held out", f"{after['bits_per_byte']:.4f}"],
        ["loss, nats a token", f"{after['loss']:.4f}"],
        *_corpus(facts["corpus"], facts["method"]["duplicates"] == "keep"),
        ["steps", f"{_steps(facts)}, at rates up to {facts['lr']:.1e}"],
        ["tokens/s", f"{facts['tokens_per_second']:,.0f}, {_used(facts)}"],
        ["seconds", f"{seconds['total']:.0f} (training loop {seconds['loop']:.0f})"],
        ["model", f"{facts['saved']['bytes'] / 1e6:.1f} MB"],
    ]
    if facts["best_step"] != facts["steps"]:
        rows.append(["kept", f"step {facts['best_step']}, the lowest loss of what is held out"])
    return console.grid(_title(facts), ["", ""], rows)
