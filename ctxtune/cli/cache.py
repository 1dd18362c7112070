"""`ctxtune cache`: what frozen layers said, and corpora as tokens, kept on disk."""

import time
from typing import Annotated

import typer

from ctxtune.cli import console, options
from ctxtune.cli.group import Group

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="List and clear what is kept on disk: what frozen layers said, tokenised corpora.",
)


@app.command("list")
def list_(json: options.Json = False) -> None:
    """The stores, the most recently used first."""
    from ctxtune.backend.stores import LIMIT, folder, list_stores

    stores = list_stores()
    facts = {
        "folder": str(folder(make=False)),
        "limit_bytes": LIMIT,
        "bytes": sum(store.num_bytes for store in stores),
        "stores": [{"key": s.key, "what": s.what, "bytes": s.num_bytes, "used": s.used} for s in stores],
    }
    rows = [
        [s.key, s.what, f"{s.num_bytes / 1e6:,.1f} MB", f"{(time.time() - s.used) / 3600:.1f} h ago"] for s in stores
    ]
    title = f"{folder(make=False)}: {sum(s.num_bytes for s in stores) / 1e6:,.1f} MB"
    console.emit(facts, json, lambda: console.grid(title, ["store", "what", "size", "used"], rows))


@app.command("clear")
def clear(
    older_than: Annotated[
        float, typer.Option("--older-than", help="Only stores not used for this many days.", min=0)
    ] = 0.0,
    json: options.Json = False,
) -> None:
    """Remove stores; the next run computes them again."""
    from ctxtune.backend.stores import clear_stores

    gone = clear_stores(older_than)
    facts = {"removed": len(gone), "bytes": sum(store.num_bytes for store in gone)}
    console.emit(facts, json, lambda: f"removed {facts['removed']} stores, {facts['bytes'] / 1e6:,.1f} MB")
