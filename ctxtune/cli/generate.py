"""`ctxtune generate`: text from a model, with or without an adapter."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from ctxtune.cli import console, options

Prompt = Annotated[str | None, typer.Argument(help="The text to continue; without it, each line of stdin is one.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="At most this many new tokens.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End before this text; may be given again.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="0 always takes the likeliest token.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Draw among the likeliest that have this share together.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Draw among this many of the likeliest.")]
MinP = Annotated[
    float | None, typer.Option("--min-p", help="Draw among those at least this likely, compared with the likeliest.")
]
Penalty = Annotated[
    float | None, typer.Option("--repetition-penalty", help="Above 1: less of what stands there already.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="The seed of sampling.")]
Stream = Annotated[
    bool | None, typer.Option("--stream/--no-stream", help="Print text as it is made: the default on a terminal.")
]
Chat = Annotated[
    bool | None, typer.Option("--chat/--no-chat", help="The prompt is a user's turn in the tokenizer's chat template.")
]
System = Annotated[str | None, typer.Option("--system", help="What the system says before a chat.")]
Jsonl = Annotated[bool, typer.Option("--jsonl", help='Lines of stdin are {"prompt": ...}; other fields are kept.')]
Batch = Annotated[
    int, typer.Option("--batch", min=1, max=65536, help="Lines read before the first is answered; 1: one by one.")
]


def generate(
    prompt: Prompt = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = None,
    seed: Seed = None,
    chat: Chat = None,
    system: System = None,
    stream: Stream = None,
    jsonl: Jsonl = False,
    batch: Batch = 32,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quant: options.Quant = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Continue a text, or every line of standard input; on a terminal, with neither, talk with the model.

    Prints the new text; with --json or --jsonl one JSON object a prompt. In a line of standard input \\n stands for a line
    break. Every prompt is sampled by itself: what it gets depends on --seed and on the prompt, not on its neighbours.
    """
    console.Quiet.on = quiet
    from ctxtune.commands import generate as command

    _check(prompt, stream, json, jsonl)
    flags = options.flags(
        model=model, device=device, dtype=dtype, quant=quant, generate__max_tokens=max_tokens, generate__stop=stop or None,
        generate__temperature=temperature, generate__top_p=top_p, generate__top_k=top_k, generate__min_p=min_p,
        generate__repetition_penalty=repetition_penalty, generate__seed=seed,
        generate__chat=chat, generate__system=system,
    )  # fmt: skip
    json = json or jsonl
    if prompt is None and not json and _is_terminal():
        from ctxtune.cli.repl import converse

        converse(flags, adapter, force)
        return
    if prompt is not None and not json and (stream or (stream is None and sys.stdout.isatty())):
        console.emit_pieces(command.stream(prompt, flags, adapter, force, console.note))
        return
    if jsonl:
        asks = command.asks_of_jsonl(_lines())
    else:
        lines = (line.rstrip("\r\n").replace("\\n", "\n") for line in _lines())
        asks = command.asks_of_prompts([prompt] if prompt is not None else lines)
    for facts in command.generate(asks, flags, adapter, force, batch, console.note):
        if json:
            console.emit_json(facts)
        else:
            console.emit_text(facts["text"])


def _check(prompt: str | None, stream: bool | None, json: bool, jsonl: bool) -> None:
    """Options that contradict each other, and a prompt that nobody gives."""
    from ctxtune.errors import DataError, RecipeError

    if jsonl and prompt is not None:
        raise RecipeError("--jsonl reads standard input: no prompt stands beside it")
    if stream and (json or prompt is None):
        raise RecipeError("--stream is for one prompt on the command line, printed as text")
    if prompt is None and (sys.stdin is None or sys.stdin.isatty()) and (json or jsonl or not _is_terminal()):
        raise DataError("no prompt", "give one, or pipe one a line")


def _is_terminal() -> bool:
    """Whether somebody sits there, to type and to read."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _lines() -> Iterator[str]:
    from ctxtune.errors import DataError

    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"stdin line {number} is not UTF-8: byte {error.start + 1}") from error
