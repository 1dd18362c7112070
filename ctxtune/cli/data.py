"""`ctxtune data`: fetch data sets, and look at rows before a run."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ctxtune.cli import console, options
from ctxtune.cli.group import Group

app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Fetch data sets; look at rows: what is learned of them, and what is odd."
)


@app.command()
def pull(
    dataset: Annotated[str, typer.Argument(help="A data set of a hub: owner/name, or owner/name/config:split.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="A branch, a tag or a commit; else what the hub has now.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Fetch a data set once into your cache folder, check its hashes, and print what --train takes."""
    from ctxtune.commands.pull_data import pull_data

    pulled = pull_data(dataset, revision, console.note)
    facts = {
        "name": pulled.repository, "revision": pulled.revision, "licence": pulled.licence, "seconds": round(pulled.seconds, 3),
        "splits": [
            {"name": one.name, "folder": str(one.folder), "bytes": one.num_bytes, "fresh": one.fresh} for one in pulled.splits
        ],
    }  # fmt: skip
    if json:
        console.emit_json(facts)
        return
    console.note(f"{pulled.repository} at {pulled.revision}, {pulled.licence}")
    for one in pulled.splits:
        console.note(f"{one.num_bytes:,} bytes" + ("" if one.fresh else ", was there already"))
        console.emit_text(one.name)


@app.command()
def show(
    recipe: options.Recipe = None,
    model: options.Model = None,
    train: options.Train = None,
    prompt: options.Prompt = None,
    answer: options.Answer = None,
    choices: options.Choices = None,
    messages: options.Messages = None,
    row: Annotated[int, typer.Option("--row", min=1, help="The first row to show, counted from 1.")] = 1,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many to show.")] = 3,
    each: Annotated[bool, typer.Option("--tokens", help="Cut at every token.")] = False,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    """Show training rows as the model reads them, with the tokens that the loss is on marked.

    They are coloured on a terminal, and stand in [[ ]] elsewhere.
    """
    from ctxtune.commands.data import show as show_rows
    from ctxtune.recipe.load import load

    given = options.flags(
        model=model,
        data__train=train,
        data__prompt=prompt,
        data__answer=answer,
        data__choices=choices,
        data__messages=messages,
    )
    shown = show_rows(load(recipe, {**_plain(recipe), **given}, set_ or []), row, rows, each)
    if json:
        for one in shown:
            cut = [{"text": p.text, "tokens": p.tokens, "supervised": p.supervised} for p in one.pieces]
            console.emit_json({"row": one.where, "tokens": one.tokens, "supervised": one.supervised, "pieces": cut})
        return
    for one in shown:
        console.emit_text(f"{one.where}: {one.tokens:,} tokens, {one.supervised:,} supervised")
        console.emit_marked([(piece.text, piece.supervised) for piece in one.pieces], "|" if each else "")
        console.emit_text("")


@app.command()
def stats(
    recipe: options.Recipe = None,
    model: options.Model = None,
    train: options.Train = None,
    eval_: options.Eval = None,
    prompt: options.Prompt = None,
    answer: options.Answer = None,
    choices: options.Choices = None,
    messages: options.Messages = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    """Count what a run would learn from: lengths, supervised tokens, labels, rows that stand twice, what would be cut."""
    from ctxtune.commands.data import stats as count
    from ctxtune.recipe.load import load

    given = options.flags(
        model=model, data__train=train, data__eval=eval_, data__prompt=prompt, data__answer=answer,
        data__choices=choices, data__messages=messages,
    )  # fmt: skip
    facts = count(load(recipe, {**_plain(recipe), **given}, set_ or []))
    for warning in facts["warnings"]:
        console.note(f"warning: {warning}")
    console.emit(facts, json, lambda: _table(facts))


def _plain(recipe: str | None) -> dict[str, object]:
    """The method plays no part in looking: a command line without a recipe gets the plainest one."""
    return {} if recipe is not None else {"method.name": "freeze"}


def _table(facts: Mapping[str, Any]) -> Any:
    rows: list[list[Any]] = [
        ["rows", f"{facts['rows']:,}"],
        ["tokens", f"{facts['tokens']:,}"],
        ["supervised tokens", f"{facts['supervised_tokens']:,}"],
    ]
    for key, name in (("length", "tokens a row"), ("supervised", "supervised a row")):
        rows.append([f"{name}: median, 90 %, 99 %, longest", ", ".join(f"{n:,}" for n in facts[key].values())])
    for limit, count in facts["longer_than"].items():
        if count or int(limit) == facts["limit"]:
            rows.append(
                [f"rows longer than {int(limit):,}" + (" (the limit)" * (int(limit) == facts["limit"])), f"{count:,}"]
            )
    rows += [[f"label {label}", f"{count:,} ({count / facts['rows']:.1%})"] for label, count in facts["labels"].items()]
    rows.append(["rows that stand twice", f"{facts['twice']:,}"])
    if facts["eval_rows"] is not None:
        rows.append(["rows to score that were learned from", f"{facts['leaked']:,} of {facts['eval_rows']:,}"])
    return console.grid(str(facts["model"]), ["", ""], rows)
