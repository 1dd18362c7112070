"""`ctxtune generate`: text from a model, with or without an adapter."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from ctxtune.cli import console, options


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue; without it, each line of stdin is one.")
    ] = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="At most this many new tokens.")] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, max=1000.0, help="0 always takes the likeliest token.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="The seed of sampling.")] = 0,
    device: options.Device = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Continue a text, or every line of standard input.

    Prints the new text; with --json one JSON object a prompt. In a line of standard input \\n stands for a line break.
    """
    console.Quiet.on = quiet
    from ctxtune.commands.generate import generate as command
    from ctxtune.errors import DataError

    if prompt is None and (sys.stdin is None or sys.stdin.isatty()):
        raise DataError("no prompt", "give one, or pipe one a line")
    prompts = iter([prompt]) if prompt is not None else _lines()
    flags = options.flags(model=model, device=device)
    for facts in command(prompts, flags, adapter, force, max_tokens, temperature, seed, console.note):
        if json:
            console.emit_json(facts)
        else:
            console.emit_text(facts["text"])


def _lines() -> Iterator[str]:
    from ctxtune.errors import DataError

    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"stdin line {number} is not UTF-8: byte {error.start + 1}") from error
        yield line.rstrip("\r\n").replace("\\n", "\n")
