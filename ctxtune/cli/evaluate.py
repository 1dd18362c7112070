"""`ctxtune eval`: how well a model does a task, with or without an adapter."""

from collections.abc import Mapping
from typing import Any

from ctxtune.cli import console, options


def evaluate(
    recipe: options.Recipe = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    eval_: options.Eval = None,
    prompt: options.Prompt = None,
    answer: options.Answer = None,
    choices: options.Choices = None,
    set_: options.Set = None,
    device: options.Device = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score a model on rows: accuracy by choices, or perplexity.

    With --choices: acc, acc_norm and acc_bytes with standard errors, by lm-evaluation-harness's rules. Without: how likely
    the answers are. A .txt file with neither --prompt nor --answer: perplexity by word and byte, bits per byte.
    With an adapter of ctxtune the recipe may be left out: the adapter remembers it.
    """
    console.Quiet.on = quiet
    from ctxtune.commands import evaluate as command

    given = options.flags(
        model=model, data__eval=eval_, data__prompt=prompt, data__answer=answer, data__choices=choices, device=device
    )
    facts = command.evaluate(recipe, given, set_ or [], adapter, force, console.note)
    console.emit(facts, json, lambda: _table(facts))


def _table(facts: Mapping[str, Any]) -> Any:
    scores = facts["scores"]
    rows = []
    for key, value in scores.items():
        if key.endswith("_stderr"):
            continue
        rows.append([key, f"{value:,}" if isinstance(value, int) else console.with_error(scores, key)])
    who = f"{facts['model']} with {facts['adapter']}" if facts["adapter"] else str(facts["model"])
    return console.grid(f"{who} on {facts['eval']}", ["", ""], rows)
