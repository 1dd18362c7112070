"""`ctxtune recipe`: the YAML recipes themselves."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ctxtune.cli.group import Group

app = typer.Typer(cls=Group, no_args_is_help=True, help="List, show, write and check recipes.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Source = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a bundled recipe.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one key, as in a run.")]


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the bundled recipes."""
    from dataclasses import asdict

    from ctxtune.cli import console
    from ctxtune.commands import recipe

    recipes = recipe.list_recipes()

    def table() -> Any:
        from rich.table import Table

        rows = Table("recipe", "what it is for", box=None)
        for one in recipes:
            rows.add_row(one.name, one.purpose)
        return rows

    console.emit({"recipes": [asdict(one) for one in recipes]}, as_json, table)


@app.command()
def show(recipe: Source) -> None:
    """Print a recipe as it was written."""
    from ctxtune.cli import console
    from ctxtune.commands.recipe import show as show_recipe

    console.emit_text(show_recipe(recipe))


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="A bundled recipe, or a method: see `ctxtune recipe list`.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; NAME.yaml if not given.")] = None,
) -> None:
    """Write a recipe to start from; no file is overwritten."""
    from ctxtune.cli import console
    from ctxtune.commands.recipe import new as new_recipe

    console.emit_text(f"{new_recipe(name, out).path}\n")


@app.command()
def check(
    recipe: Source,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Check the keys, values and templates of a recipe, and print what they resolve to; data and model are not read."""
    from ctxtune.cli import console
    from ctxtune.commands.recipe import check as check_recipe
    from ctxtune.errors import RecipeError
    from ctxtune.recipe.faults import Mistakes
    from ctxtune.recipe.read import shown

    try:
        checked = check_recipe(recipe, sets or ())
    except Mistakes as error:
        *others, last = error.lines
        for line in others:
            console.fail(line, None)
        raise RecipeError(last) from error
    if as_json:
        console.emit({"ok": True, "recipe": checked.values, "origin": checked.origin}, as_json, lambda: None)
    else:
        console.emit_text(f"# ok: {shown(checked.source)}\n{checked.text}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, with which editors complete and check it."""
    import json

    from ctxtune.cli import console
    from ctxtune.recipe.schema import json_schema

    console.emit_text(f"{json.dumps(json_schema(), indent=2)}\n")
