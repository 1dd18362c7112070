"""`ctxtune mask`: let a few numbers of the weights move, chosen one by one or by columns, rows or blocks."""

from typing import Annotated

import typer

from ctxtune.cli import freeze, options
from ctxtune.recipe.mask import masks_of


def mask(
    recipe: options.Recipe = None,
    model: options.Model = None,
    train: options.Train = None,
    eval_: options.Eval = None,
    prompt: options.Prompt = None,
    answer: options.Answer = None,
    choices: options.Choices = None,
    messages: options.Messages = None,
    select: Annotated[
        str | None,
        typer.Option(
            "--select",
            help="Which numbers move: random, magnitude, lift, bias, norms, or file: and masks, joined by ' + ', ' & ', ' - '.",
        ),
    ] = None,
    shape: Annotated[str | None, typer.Option("--shape", help="columns, rows, blocks or entries.")] = None,
    density: Annotated[
        str | None, typer.Option("--density", help="The share of the weights that moves, such as 1%.")
    ] = None,
    budget: Annotated[int | None, typer.Option("--budget", help="How many numbers move, in place of a share.")] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="Where they are chosen: all, last:4, 10-19, last:4.mlp, embeddings.")
    ] = None,
    epochs: options.Epochs = None,
    batch: options.Batch = None,
    lr: options.Rate = None,
    cache: options.Cache = None,
    out: options.Out = None,
    set_: options.Set = None,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quant: options.Quant = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a few numbers of the weights, keep all others as they are.

    One weight in a hundred, spread over the model, learns much and forgets little; a step computes the gradient of these
    numbers alone.
    """
    name, masks, combine = masks_of(select)
    given = options.flags(
        model=model, data__train=train, data__eval=eval_, data__prompt=prompt, data__answer=answer, data__choices=choices,
        data__messages=messages,
        method__name="mask", method__select=name, method__masks=masks, method__combine=combine, method__shape=shape,
        method__density=density, method__budget=budget,
        method__layers=layers, train__epochs=epochs, train__batch=batch, train__lr=lr, train__seed=seed, cache=cache,
        device=device, dtype=dtype, quant=quant, out=out,
    )  # fmt: skip
    freeze.start(recipe, given, set_ or [], out, resume, dry_run, json, quiet)
