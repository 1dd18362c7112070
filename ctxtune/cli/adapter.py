"""`ctxtune adapter`: look at adapters, compare and check them, merge, export and compose them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ctxtune.cli.group import Group

app = typer.Typer(cls=Group, no_args_is_help=True, help="Show, compare, verify, merge, export and compose adapters.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Place = Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter folder, or its safetensors file.")]
Model = Annotated[str | None, typer.Option("--model", help="The base: a folder, or a name from `ctxtune model list`.")]
Out = Annotated[Path, typer.Option("--out", help="The folder to write.")]


@app.command()
def show(
    adapter: Place,
    model: Annotated[
        str | None, typer.Option("--model", help="The base of a mask adapter: changes are compared with its numbers.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Another mask: how many of the numbers both choose, by layer.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what an adapter is and what it did to its base, from its file."""
    from ctxtune.cli import console, extent
    from ctxtune.commands.adapter import show as show_adapter

    shown = show_adapter(adapter, model, against)
    if shown.note:
        console.note(f"note: {shown.note}")
    facts: dict[str, Any] = {
        "file": str(shown.file),
        "kind": shown.kind,
        "container": shown.container,
        "base": shown.base,
        "numbers": shown.numbers,
        "bytes": shown.num_bytes,
        "start": shown.start,
        "manifest": shown.manifest.as_dict() if shown.manifest else None,
        "tensors": {name: {"dtype": info.dtype, "shape": list(info.shape)} for name, info in shown.tensors.items()},
        "moved": None if shown.moved is None else [extent.facts(one) for one in shown.moved],
        "overlap": None if shown.overlap is None else extent.overlap_facts(shown.overlap),
    }

    def table() -> Any:
        from rich.console import Group as Stack
        from rich.markup import escape

        rows = [[key, escape(value)] for key, value in _rows(facts)]
        found = console.grid(escape(facts["file"]), ["fact", "value"], rows)
        if shown.moved is not None:
            return Stack(
                found, *extent.tables(shown.moved), *extent.overlap_tables(shown.overlap, escape(str(against)))
            )
        told = facts["manifest"] and facts["manifest"]["shown"]
        return _with_demonstrations(found, told) if told else found

    console.emit(
        facts,
        as_json,
        table,
        lambda: [*_lines(facts), *extent.lines(shown.moved or []), *extent.overlap_lines(shown.overlap)],
    )


@app.command()
def verify(adapter: Place, model: Model = None, as_json: AsJson = False) -> None:
    """Check an adapter's structure, manifest, configuration, bytes and numbers; with --model also its base."""
    from ctxtune.cli import console
    from ctxtune.commands.adapter import verify as verify_adapter
    from ctxtune.errors import AdapterError

    verified = verify_adapter(adapter, model)
    checks = [{"check": check.name, "ok": check.ok, "detail": check.detail} for check in verified.checks]

    def table() -> Any:
        from rich.markup import escape

        rows = [[check.name, "ok" if check.ok else "FAILED", escape(check.detail)] for check in verified.checks]
        return console.grid(escape(str(verified.file)), ["check", "result", "detail"], rows)

    console.emit({"file": str(verified.file), "ok": verified.ok, "checks": checks}, as_json, table)
    failed = [check.name for check in verified.checks if not check.ok]
    if failed:
        raise AdapterError(f"{verified.file} failed: {', '.join(failed)}")


@app.command()
def merge(
    adapter: Place,
    out: Out,
    model: Model = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, float16 or bfloat16; else the base's own.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Merge into another base, or in spite of the loss.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the base with the adapter in it as a new model folder."""
    from ctxtune.cli import console
    from ctxtune.commands.adapter import merge as merge_adapter

    result = merge_adapter(adapter, out, model, dtype, force, console.note)
    if result.note:
        console.note(f"note: {result.note}")
    merged = result.merged
    facts = {
        "folder": str(merged.folder), "bytes": merged.num_bytes, "changed_tensors": merged.changed,
        "untied": merged.untied, "kl": merged.kl,
    }  # fmt: skip

    def table() -> Any:
        rows = [["bytes", f"{merged.num_bytes:,}"], ["tensors changed", str(merged.changed)]]
        rows.append(["KL(attached || merged), nats a token", f"{merged.kl:.2e}"])
        return console.grid(str(merged.folder), ["fact", "value"], rows)

    console.emit(facts, as_json, table)


@app.command()
def export(
    adapter: Place,
    out: Out,
    to: Annotated[
        str, typer.Option("--to", help="peft; lora: low ranks; or model: vectors become words of a checkpoint.")
    ] = "peft",
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, help="Of --to lora; if not given, as large as it must be.")
    ] = None,
    model: Model = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Of --to model: float32 (if not given), float16 or bfloat16.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Insist, although the base is another one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an adapter in the form of another program."""
    from ctxtune.cli import console
    from ctxtune.commands.export import export as export_adapter

    exported = export_adapter(adapter, to, out, model, dtype, force, console.note, rank)
    if exported.note:
        console.note(f"note: {exported.note}")
    facts: dict[str, Any] = {"folder": str(exported.folder), "bytes": exported.num_bytes}
    if (baked := exported.baked) is not None:
        facts |= {"words": baked.words, "largest_share": baked.share, "largest_difference": baked.difference}
        console.note(
            f"{baked.words} new words: at most {baked.share:.0e} of the probability on the probe; "
            f"log-probabilities of the old ones within {baked.difference:.0e}"
        )
        if baked.behind:
            console.note(
                "the tokenizer writes them behind a prompt: a harness that makes one text of prompt and answer gets them "
                "behind the answer, where they do nothing; `ctxtune eval --model` puts them between the two"
            )
    if (sparse := exported.sparse) is not None:
        facts |= {"container": sparse.container, "r": sparse.r or None, "padding": sparse.padding}
        padding = f", r = {sparse.r}: {sparse.padding:,} of the places hold a change of 0" if sparse.r else ""
        console.note(f"{sparse.container}{padding}")
    if (low := exported.low) is not None:
        facts |= {
            "container": "LORA", "rank": low.rank, "matrices": low.matrices, "energy_kept": low.kept,
            "worst": {"parameter": low.worst, "energy_kept": low.worst_kept},
        }  # fmt: skip
        console.note(
            f"LORA of {low.matrices} matrices, rank {low.rank} at most: keeps {low.kept:.4f} of the energy of the changes, "
            f"least of {low.worst}, {low.worst_kept:.4f}"
        )
    if as_json:
        console.emit(facts, as_json, lambda: None)
    else:
        console.emit_text(str(exported.folder))


@app.command()
def scale(
    adapter: Place,
    out: Out,
    alpha: Annotated[str, typer.Option("--alpha", help="The share of the changes that is kept, such as 0.5.")],
    model: Model = None,
    force: Annotated[bool, typer.Option("--force", help="Insist, although the base is another one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a share of a freeze or mask adapter, which learned less and forgets less."""
    from ctxtune.cli import console
    from ctxtune.commands.scale import scale as scale_adapter

    share, num_bytes = scale_adapter(adapter, alpha, out, model, force, console.note)
    if as_json:
        console.emit({"folder": str(out), "bytes": num_bytes, "alpha": share}, as_json, lambda: None)
    else:
        console.emit_text(str(out))


@app.command()
def compose(
    adapters: Annotated[list[Path], typer.Argument(metavar="ADAPTER...", help="Mask adapters of one base.")],
    out: Out,
    weights: Annotated[
        str | None, typer.Option("--weights", help="What each counts, such as 0.5,0.5; needed where masks overlap.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add mask adapters of several tasks: the changes of all of them in one adapter."""
    from ctxtune.cli import console
    from ctxtune.commands.compose import compose as compose_adapters

    done = compose_adapters(adapters, out, weights)
    facts = {"folder": str(out), "bytes": done.num_bytes, "numbers": done.numbers, "shared": done.shared}
    common = f", {done.shared:,} of them in several" if done.shared else ""
    console.note(f"{done.numbers:,} numbers of {len(adapters)} adapters{common}")
    if as_json:
        console.emit(facts, as_json, lambda: None)
    else:
        console.emit_text(str(out))


@app.command()
def diff(
    adapter: Place,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="What it is compared with.")],
    as_json: AsJson = False,
) -> None:
    """Show where two adapters differ: tensors of one alone, overlap of masks, and how far apart their changes are."""
    from ctxtune.cli import console
    from ctxtune.cli import diff as drawn
    from ctxtune.commands.diff import diff as compare

    compared = compare(adapter, other)

    def table() -> Any:
        from rich.console import Group as Stack

        return Stack(*drawn.tables(compared))

    console.emit(drawn.facts(compared), as_json, table)


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What of an adapter fits on a screen."""
    rows = [
        ("method", facts["kind"]),
        ("container", facts["container"]),
        ("base", str(facts["base"] or "not named")),
        ("tensors", f"{len(facts['tensors']):,}"),
        ("numbers in the file", f"{facts['numbers']:,}"),
        ("bytes", f"{facts['bytes']:,}"),
    ]
    if facts.get("moved") is not None:
        rows.insert(2, ("numbers of the mask", f"{sum(one['moved'] for one in facts['moved']):,}"))
    manifest = facts["manifest"]
    if manifest is None:
        return [*rows, ("manifest", "none: written by another program")]
    rows += [
        ("base fingerprint", manifest["base"]["fingerprint"]),
        *((f"settings: {key}", _word(value)) for key, value in _said(manifest["settings"])),
        ("trained numbers", f"{manifest['trainable']:,}"),
        ("seed", str(manifest["seed"])),
        ("created", f"{manifest['created']} by ctxtune {manifest['version']}"),
    ]
    for title in ("scores", "forgetting"):
        before, after = manifest[title]["before"], manifest[title]["after"]
        for name in dict.fromkeys([*before, *after]):
            old = f"{_number(before.get(name))} -> " if before else ""  # examples are not scored against none
            rows.append((f"{title}: {name}", old + _number(after.get(name))))
    return rows + _shown(manifest["shown"], facts.get("start")) if manifest["shown"] else rows


def _said(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings that say something: what is off, left open, or plays no part in the choice of a mask, is not named."""
    from ctxtune.recipe.mask import READ_BY

    select = settings.get("select") if "learn" in settings else None
    for key, value in settings.items():
        without = value is None or value is False or value == [] or isinstance(value, dict)
        if not without and (select is None or select in READ_BY.get(key, (select,))):
            yield key, value


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "yes" if value is True else str(value)


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    """The same for a pipe: `key: value`, a demonstration as a block."""
    yield f"file: {facts['file']}"
    yield from (f"{key}: {' '.join(value.split())}" for key, value in _rows(facts))
    shown = facts["manifest"] and facts["manifest"]["shown"]
    for number, (text, where) in enumerate(_told(shown) if shown else [], 1):
        yield f"{number}. {where or 'instruction'}"
        yield from (f"   {line}".rstrip() for line in text.strip().splitlines())


def _told(shown: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands before every question, in its order, each with the place it is from; or what virtual tokens started as."""
    front = [(shown["instruction"], "")] if shown["instruction"] and not _learned(shown) else []
    return [*front, *zip(shown["texts"], shown["where"], strict=False)]


def _learned(shown: dict[str, Any]) -> bool:
    return bool(shown["tokens"]) and shown["tokens"][0] < 0


def _shown(shown: dict[str, Any], start: str | None) -> list[tuple[str, str]]:
    """Demonstrations in numbers, or virtual tokens."""
    if _learned(shown):
        return [("virtual tokens", f"{len(shown['tokens']):,}, which started as {start}")]
    rows = [("demonstrations", f"{len(shown['texts']):,}"), ("tokens held", f"{len(shown['tokens']):,}")]
    nats = ", ".join(f"{choice} {bias:+.4f}" for choice, bias in shown["bias"].items())
    return rows + ([(f"{shown['calibrate']} calibration, nats", nats)] if nats else [])


def _with_demonstrations(table: Any, shown: dict[str, Any]) -> Any:
    """What stands before every question, in its order; the table alone where nothing does."""
    from rich.console import Group as Stack
    from rich.markup import escape

    from ctxtune.cli import console

    rows = [[escape(text.strip()), escape(where)] for text, where in _told(shown)]
    if not rows:
        return table
    title = "What the virtual tokens started from" if _learned(shown) else "What stands before every question"
    return Stack(table, console.grid(title, ["text", "from"], rows))


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.6g}"
