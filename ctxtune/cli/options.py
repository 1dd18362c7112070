"""Options that several commands share, each spelled once. None means: not given, the recipe or its default decides."""

from pathlib import Path
from typing import Annotated, Any

import typer

Recipe = Annotated[str | None, typer.Argument(help="A recipe file, or the name of a bundled one.", show_default=False)]
Model = Annotated[
    str | None, typer.Option("--model", help="A folder, a .gguf file, or a name from `ctxtune model list`.")
]
Adapter = Annotated[Path | None, typer.Option("--adapter", help="An adapter: its folder, its file, or a run's folder.")]
Train = Annotated[
    list[str] | None,
    typer.Option("--train", help="Rows to learn from: a file, a folder of texts, - for stdin. Several may be named."),
]
Eval = Annotated[str | None, typer.Option("--eval", help="Rows to score; - for stdin, where nothing is trained.")]
Prompt = Annotated[str | None, typer.Option("--prompt", help="The prompt, a Jinja template over a row's fields.")]
Answer = Annotated[str | None, typer.Option("--answer", help="The answer, a Jinja template over a row's fields.")]
Choices = Annotated[
    str | None,
    typer.Option("--choices", help="The possible answers, split at commas, or a template that lists a row's own."),
]
Metric = Annotated[
    str | None,
    typer.Option("--metric", help="Free answers are scored by: likelihood, exact, f1, number, bleu, chrf or rouge."),
]
Messages = Annotated[
    str | None,
    typer.Option("--messages", help="Chat rows: the field of their messages, in place of --prompt and --answer."),
]
Epochs = Annotated[float | None, typer.Option("--epochs", help="Passes over the rows.")]
Batch = Annotated[int | None, typer.Option("--batch", help="Rows in a step.")]
Cache = Annotated[str | None, typer.Option("--cache", help="auto, memory, disk or off.")]
Rate = Annotated[str | None, typer.Option("--lr", help="The learning rate, or auto.")]
ForgetBudget = Annotated[
    float | None,
    typer.Option("--forget-budget", help="The most KL(base || tuned) on the probe, in nats a token, such as 0.05."),
]
Out = Annotated[Path | None, typer.Option("--out", help="The folder to write.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the recipe.")]
Seed = Annotated[int | None, typer.Option("--seed", help="The seed of every random choice.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="What it computes in: auto, float32, bfloat16 or float16.")]
Quant = Annotated[
    str | None, typer.Option("--quant", help="How frozen linear layers are stored: none, int8, nf4 or fp4.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what the run would cost, and leave.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Force = Annotated[bool, typer.Option("--force", help="Insist, although the base is another one.")]


def flags(**given: Any) -> dict[str, object]:
    """Recipe keys of the options: `data__train` is data.train. Choices are split at commas, one file is no list."""
    table = {name.replace("__", "."): value for name, value in given.items()}
    if (choices := table.get("data.choices")) is not None and "{{" not in str(choices):
        table["data.choices"] = [part.strip() for part in str(choices).split(",")]
    if (train := table.get("data.train")) is not None and len(train) == 1:
        table["data.train"] = train[0]
    return {key: str(value) if isinstance(value, Path) else value for key, value in table.items()}


def numbers(given: str | None) -> list[float] | str | None:
    """Numbers split at commas; what is none is left to the recipe's checks."""
    try:
        return [float(part) for part in given.split(",")] if given is not None else None
    except ValueError:
        return given
