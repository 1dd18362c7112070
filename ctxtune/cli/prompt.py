"""`ctxtune prompt`: learn virtual tokens that stand before every text."""

from typing import Annotated

import typer

from ctxtune.cli import freeze, options


def prompt(
    recipe: options.Recipe = None,
    model: options.Model = None,
    train: options.Train = None,
    eval_: options.Eval = None,
    prompt_: options.Prompt = None,
    answer: options.Answer = None,
    choices: options.Choices = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind", help="prefix: keys and values of all layers; vectors at the front: input, residual, ptuning."
        ),
    ] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", help="Virtual tokens, or auto.")] = None,
    init: Annotated[
        str | None,
        typer.Option("--init", help="What they start from: fewshot, text: and the words, labels, vocab, zero."),
    ] = None,
    shots: Annotated[int | None, typer.Option("--shots", help="Demonstrations of --init fewshot.")] = None,
    top: Annotated[int | None, typer.Option("--top", help="Layers of a prefix that learn, from the top.")] = None,
    distill_from: Annotated[
        str | None,
        typer.Option(
            "--distill-from", help="fewshot: learn to answer as behind --shots demonstrations, not by labels."
        ),
    ] = None,
    epochs: options.Epochs = None,
    batch: options.Batch = None,
    lr: options.Rate = None,
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
    """Learn a prompt that is no text: virtual tokens, which start as real ones.

    Keys and values of the virtual tokens stand before every text; no weight of the model moves.
    """
    given = options.flags(
        model=model, data__train=train, data__eval=eval_, data__prompt=prompt_, data__answer=answer, data__choices=choices,
        method__name="prompt", method__kind=kind, method__tokens=tokens, method__init=init, method__shots=shots,
        method__top=top, method__distill_from=distill_from,
        train__epochs=epochs, train__batch=batch, train__lr=lr, train__seed=seed,
        device=device, dtype=dtype, quant=quant, out=out,
    )  # fmt: skip
    freeze.start(recipe, given, set_ or [], out, resume, dry_run, json, quiet)
