"""`ctxtune mask`: let a few numbers of the weights move, chosen one by one or by columns, rows or blocks."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ctxtune.cli import console, freeze, launch, options

Select = Annotated[
    str | None,
    typer.Option(
        "--select",
        help="auto: what the rows ask for and other text does not (contrast). random, magnitude, lift, fisher, snip, movement, "
        "grad, l0, bias, norms; file: and masks (' + ', ' & ', ' - ').",
    ),
]
Learn = Annotated[
    str | None, typer.Option("--learn", help="changes, or bits: which weights stay and which are 0, all others frozen.")
]
Shape = Annotated[
    str | None,
    typer.Option(
        "--shape", help="columns (all weights of an input; the default), rows (of an output), blocks, entries."
    ),
]
Density = Annotated[str | None, typer.Option("--density", help="The share of the weights that moves, such as 1%.")]
Layers = Annotated[
    str | None, typer.Option("--layers", help="Where they are chosen: all, last:4, 10-19, last:4.mlp, embeddings.")
]
L2 = Annotated[float | None, typer.Option("--l2", help="What half the square of a change costs (L2-SP).")]
L1 = Annotated[float | None, typer.Option("--l1", help="What a change costs; what is not worth it is 0.")]
EWC = Annotated[
    str | None,
    typer.Option("--ewc", help="How dear changes are that other text would suffer from; auto is 100 by contrast."),
]
Control = Annotated[
    bool, typer.Option("--control", help="Train a random mask of the same size as well, and compare the two.")
]
ChooseOnly = Annotated[
    bool, typer.Option("--choose-only", help="Train nothing: write which numbers are chosen to the file --out.")
]


def mask(
    recipe: options.Recipe = None,
    model: options.Model = None,
    train: options.Train = None,
    eval_: options.Eval = None,
    prompt: options.Prompt = None,
    answer: options.Answer = None,
    choices: options.Choices = None,
    messages: options.Messages = None,
    learn: Learn = None,
    select: Select = None,
    shape: Shape = None,
    density: Density = None,
    budget: Annotated[int | None, typer.Option("--budget", help="How many numbers move, in place of a share.")] = None,
    layers: Layers = None,
    l2: L2 = None,
    l1: L1 = None,
    ewc: EWC = None,
    control: Control = False,
    choose_only: ChooseOnly = False,
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
    """Train a few numbers of the weights, keep all others as they are.

    One weight in a hundred, spread over the model, learns much and forgets little; a step computes the gradient of these
    numbers alone.
    """
    from ctxtune.recipe.mask import masks_of

    name, masks, combine = masks_of(select)
    given = options.flags(
        model=model, data__train=train, data__eval=eval_, data__prompt=prompt, data__answer=answer, data__choices=choices,
        data__messages=messages, method__name="mask", method__learn=learn, method__select=name, method__masks=masks,
        method__combine=combine, method__shape=shape, method__density=density, method__budget=budget,
        method__layers=layers, method__l2=l2, method__l1=l1, method__ewc=ewc, method__control=control or None,
        train__epochs=epochs, train__batch=batch, train__lr=lr, train__seed=seed,
        forget__budget=forget_budget, cache=cache,
        device=device, dtype=dtype, quant=quant, out=out,
    )  # fmt: skip
    if choose_only:
        _choose(recipe, given, set_ or [], resume or dry_run, json, quiet)
        return
    launch.hand_on(nproc, here=dry_run)
    freeze.start(recipe, given, set_ or [], out, resume, dry_run, json, quiet)


def _choose(
    recipe: str | None, given: Mapping[str, object], sets: list[str], otherwise: bool, as_json: bool, quiet: bool
) -> None:
    """Choose and write the mask alone, print what it came to."""
    console.Quiet.on = quiet
    from ctxtune.commands.choose_only import choose_only
    from ctxtune.errors import RecipeError
    from ctxtune.recipe.load import load

    if otherwise:
        raise RecipeError(
            "--choose-only trains nothing: neither --resume nor --dry-run goes with it", "leave these out"
        )
    chosen = choose_only(load(recipe, given, sets), console.note)
    facts: dict[str, Any] = {
        "file": str(chosen.file), "bytes": chosen.num_bytes, "numbers": chosen.numbers, "parameters": chosen.parameters,
    }  # fmt: skip

    def table() -> Any:
        rows = [[key, f"{facts[key]:,}"] for key in ("numbers", "parameters", "bytes")]
        return console.grid(facts["file"], ["fact", "value"], rows)

    console.emit(facts, as_json, table)
    console.note(f"look at it with ctxtune adapter show {chosen.file}; train it with --select file:{chosen.file}")
