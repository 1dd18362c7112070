"""`ctxtune quickstart`: from nothing to an adapted model."""

from collections.abc import Mapping
from typing import Any

from ctxtune.cli import console, freeze, options
from ctxtune.cli.voice import speaking


def quickstart(out: options.Out = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Adapt a real model to real data, with no other input.

    Fetches SmolLM2-135M-Instruct once (93 MB), trains its last layers on 1,024 film reviews, prints what it learned and what
    it forgot, beside what it answers with one weight in a hundred of these trained, behind a short prompt that is learned, and
    behind 16 of the reviews with no training at all, and leaves the three adapters.
    """
    console.Quiet.on = quiet
    from ctxtune.commands.quickstart import quickstart as command

    with speaking() as voice:
        facts = command(out, voice)
    console.emit(facts, json, lambda: _tables(facts))
    console.note("other examples give other answers; how far apart they lie: ctxtune fewshot fewshot --seeds 5")
    console.note(f"the adapter lies in {facts['adapter']['folder']}; use it with:")
    review = r"Review: a quiet, moving and very funny film\nSentiment:"
    console.note(f"  echo '{review}' | ctxtune generate --adapter {facts['out']} --max-tokens 1")


def _tables(facts: Mapping[str, Any]) -> Any:
    from rich.console import Group

    return Group(freeze.result_table(facts), _ways(facts, facts["fewshot"]))


def _ways(tuned: Mapping[str, Any], few: Mapping[str, Any]) -> Any:
    """The same rows asked in every way, what each took from loading the model on, and how far it moved."""
    prompt, mask = tuned["prompt"], tuned["mask"]
    asked = f"behind {few['method']['shots']} examples"
    rows = [
        ["as it came", console.with_error(tuned["scores"]["before"], "acc"), "", "0"],
        [asked, console.with_error(few["calibrations"]["none"], "acc"), f"{few['seconds']['total']:.0f}", "0"],
        [f"{asked}, batch calibration", console.with_error(few["calibrations"]["batch"], "acc"), "the same pass", "0"],
        [f"prompt learned, {prompt['trainable']:,} numbers", *_after(prompt), "0"],
        [f"mask tuned, {mask['trainable']:,} numbers", *_after(mask), _moved(mask)],
        [f"tuned, {tuned['trainable']:,} numbers", *_after(tuned), _moved(tuned)],
    ]
    titles = ["", "acc", "seconds", "KL, nats a token"]
    return console.grid(f"Accuracy on the same {few['scores']['rows']:,} rows", titles, rows)


def _moved(run: Mapping[str, Any]) -> str:
    """How far other text is from what the base says of it."""
    return f"{run['forgetting']['after']['kl']:.4f}"


def _after(run: Mapping[str, Any]) -> list[str]:
    """Accuracy and seconds of a run."""
    return [console.with_error(run["scores"]["after"], "acc"), f"{run['seconds']['total']:.0f}"]
