"""`ctxtune prompt`: learn virtual tokens that stand before or behind every text, or find words."""

from typing import Annotated

import typer

from ctxtune.cli import freeze, launch, options, search
from ctxtune.recipe.start import paths_of

Shots = Annotated[
    int | None, typer.Option("--shots", help="Demonstrations: of --init fewshot, or before each question.")
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init", help="The start: fewshot, text: and words, labels, vocab, zero, prompt, adapter: and paths."
    ),
]
Tokens = Annotated[str | None, typer.Option("--tokens", help="Virtual tokens, or auto.")]
DistillFrom = Annotated[
    str | None,
    typer.Option("--distill-from", help="fewshot: learn to answer as behind --shots demonstrations, not by labels."),
]


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
            "--kind", help="prefix: keys and values; vectors at the front: input, residual, ptuning; behind: suffix."
        ),
    ] = None,
    tokens: Tokens = None,
    init: Init = None,
    shots: Shots = None,
    top: Annotated[int | None, typer.Option("--top", help="Layers of a prefix that learn, from the top.")] = None,
    distill_from: DistillFrom = None,
    search_: search.Search = False,
    candidates: search.Candidates = None,
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
    """Learn a prompt that is no text: virtual tokens, which start as real ones.

    They stand before every text, or behind it (--kind suffix); no weight of the model moves. With --search it is text:
    instructions, forms of the question and demonstrations are tried on training rows, and what does best on others is
    written as a recipe of `ctxtune fewshot`.
    """
    name, adapters = paths_of(init)
    given = options.flags(
        model=model, data__train=train, data__eval=eval_, data__prompt=prompt_, data__answer=answer, data__choices=choices,
        method__name="prompt", method__kind=kind, method__tokens=tokens, method__init=name, method__adapters=adapters,
        method__shots=shots, method__top=top, method__distill_from=distill_from,
        train__epochs=epochs, train__batch=batch, train__lr=lr, train__seed=seed,
        forget__budget=forget_budget, cache=cache, device=device, dtype=dtype, quant=quant, out=out,
    )  # fmt: skip
    if search_ or candidates is not None:
        search.start(search_, candidates, recipe, given, set_ or [], resume, dry_run, json, quiet)
        return
    launch.hand_on(nproc, here=dry_run)
    freeze.start(recipe, given, set_ or [], out, resume, dry_run, json, quiet)
