"""`ctxtune pretrain`: a new model from text alone, or a base that goes on learning text."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctxtune.cli import console, launch, options
from ctxtune.cli.voice import speaking

if TYPE_CHECKING:
    from ctxtune.recipe.load import Resolved

Base = Annotated[
    str | None,
    typer.Option("--model", help="A base that goes on learning, as of freeze; without it a new one is made."),
]
Method = Annotated[
    str | None, typer.Option("--method", help="What of the base moves: full, freeze (--layers), mask or prompt.")
]
Text = Annotated[
    list[str] | None,
    typer.Option("--train", help="The corpus: txt, jsonl, parquet, a folder of texts ... Several may be named."),
]
HeldOut = Annotated[
    str | None, typer.Option("--eval", help="Text to score; without it the end of each file is held out.")
]
Replay = Annotated[
    str | None,
    typer.Option("--replay", help="FILE:5%: other text beside it, and its share of the tokens of each step."),
]
Arch = Annotated[str | None, typer.Option("--arch", help="llama, qwen3, gpt2 or neox.")]
Depth = Annotated[int | None, typer.Option("--depth", help="Layers: the one dial, which sets the rest.")]
Params = Annotated[str | None, typer.Option("--params", help="Numbers of the model, about, in place of --depth: 3M.")]
Vocabulary = Annotated[
    int | None, typer.Option("--vocabulary", help="Tokens of the tokenizer that is learned from the corpus.")
]
Tokenizer = Annotated[str | None, typer.Option("--tokenizer", help="A given one: a folder, or a tokenizer.json.")]
Layers = Annotated[str | None, typer.Option("--layers", help="Layers of the base that move: last:4, 10-19, all, auto.")]
Optimizer = Annotated[str | None, typer.Option("--optimizer", help="muon, adamw or schedule_free.")]
Count = Annotated[int | None, typer.Option("--steps", help="Steps, in place of --epochs.")]
Rate = Annotated[str | None, typer.Option("--lr", help="The learning rate, auto or transfer.")]
Minutes = Annotated[float | None, typer.Option("--minutes", help="How long it learns, in place of --epochs.")]


def pretrain(
    recipe: options.Recipe = None,
    model: Base = None,
    method: Method = None,
    train: Text = None,
    eval_: HeldOut = None,
    replay: Replay = None,
    arch: Arch = None,
    depth: Depth = None,
    params: Params = None,
    vocabulary: Vocabulary = None,
    tokenizer: Tokenizer = None,
    layers: Layers = None,
    optimizer: Optimizer = None,
    epochs: options.Epochs = None,
    steps: Count = None,
    minutes: Minutes = None,
    batch: options.Batch = None,
    lr: Rate = None,
    forget_budget: options.ForgetBudget = None,
    cache: options.Cache = None,
    out: options.Out = None,
    set_: options.Set = None,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quant: options.Quant = None,
    nproc: launch.Nproc = None,
    nnodes: launch.Nnodes = None,
    rdzv: launch.Rdzv = None,
    fsdp: launch.Fsdp = False,
    accelerate: launch.Accelerate = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a new model, and its tokenizer, from text alone; or, with --model, let a base go on learning text.

    The text is tokenised once. What comes out is a folder that transformers loads, and every other command here; of a
    base that went on an adapter, as of the other methods, and what it has forgotten.
    """
    from ctxtune.cli import freeze
    from ctxtune.recipe.data import DOCUMENT, replay_of

    other, share = replay_of(replay)
    processes = launch.hand_on(nproc, nnodes, rdzv, accelerate, here=dry_run)
    device, dtype = device or processes.device, dtype or processes.dtype
    given = options.flags(
        model=model, data__train=train, data__eval=eval_, data__replay=other, data__replay_share=share,
        **_moving(recipe, model, method, layers), method__arch=arch, method__depth=depth, method__params=params,
        method__minutes=minutes, method__vocabulary=vocabulary, method__tokenizer=tokenizer, train__optimizer=optimizer,
        train__epochs=epochs, train__steps=steps, train__batch=batch, train__lr=lr, train__seed=seed,
        forget__budget=forget_budget, cache=cache, device=device, dtype=dtype, quant=quant, out=out,
    )  # fmt: skip
    sharded = fsdp or processes.sharded
    text = [f"data.text={DOCUMENT}"] if recipe is None and given["method.name"] != "pretrain" else []
    freeze.start(recipe, given, [*text, *(set_ or [])], out, resume, dry_run, json, quiet, sharded)


def _moving(recipe: str | None, model: str | None, method: str | None, layers: str | None) -> dict[str, str | None]:
    """The method that is meant, and its layers: where neither a recipe nor anybody else says, all of a base that goes on."""
    from ctxtune.errors import RecipeError

    if model is None and method is None:
        return {"method__name": "pretrain", "method__layers": layers}
    if method not in (None, "full", "freeze", "mask", "prompt"):
        raise RecipeError(f"--method is {method!r}, allowed: full, freeze, mask or prompt")
    if method == "full" and layers not in (None, "all"):
        raise RecipeError(f"--method full moves all layers, --layers names {layers}", "--method freeze")
    if method in ("mask", "prompt") or (method is None and recipe is not None):
        return {"method__name": method, "method__layers": layers}
    full = method == "full" or (method is None and layers is None)
    return {"method__name": "freeze", "method__layers": "all" if full else layers}


def start(resolved: "Resolved", resume: bool, dry_run: bool, as_json: bool, sharded: bool = False) -> None:
    """Do or foresee the run, print the result."""
    from ctxtune.commands.pretrain import dry_run as foresee
    from ctxtune.commands.pretrain import pretrain as make

    with speaking() as voice:
        facts = foresee(resolved, voice, resume) if dry_run else make(resolved, resume, voice, sharded)
    if dry_run:
        console.emit(facts, as_json, lambda: _cost_table(facts))
        return
    console.emit(facts, as_json, lambda: result_table(facts))
    if facts["saved"]:
        console.note(f"model: {facts['saved']['folder']}")


def _title(facts: Mapping[str, Any]) -> str:
    method = facts["method"]
    least = "at least " if facts.get("deepens") else ""
    return f"{method['arch']} of {least}{method['depth']} layers, {facts['parameters']:,} numbers"


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
        ["highest rate", _rate(facts)],
        ["the run's folder, bytes", f"{facts['run_bytes']:,}"],
        ["folder of the run", facts["out"]],
    ]
    return console.grid(f"{_title(facts)} (nothing was trained)", ["", ""], rows)


def _rate(facts: Mapping[str, Any]) -> str:
    if facts["lr"] is not None:
        return f"{facts['lr']:.1e}"
    trials = facts["transfer"]
    some = f"{trials['rates'][0]:.1e} to {trials['rates'][-1]:.1e}"
    count = len(trials["rates"])
    return f"the best of {count}, {some}, each tried for {trials['steps']:,} steps {trials['width']} wide"


def _tried(transfer: Mapping[str, Any]) -> str:
    """Loss by rate, of the narrow model."""
    losses = ", ".join(f"{lr:.1e}: {'-' if loss is None else f'{loss:.4f}'}" for lr, loss in transfer["tried"])
    return f"{losses}, after {transfer['steps']:,} steps {transfer['width']} wide"


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
        *([["loss at the rates tried", _tried(facts["transfer"])]] if facts.get("transfer") else []),
        ["tokens/s", f"{facts['tokens_per_second']:,.0f}, {_used(facts)}"],
        ["seconds", f"{seconds['total']:.0f} (training loop {seconds['loop']:.0f})"],
        ["model", f"{facts['saved']['bytes'] / 1e6:.1f} MB"],
    ]
    if facts["best_step"] != facts["steps"]:
        rows.append(["kept", f"step {facts['best_step']}, the lowest loss of what is held out"])
    return console.grid(_title(facts), ["", ""], rows)
