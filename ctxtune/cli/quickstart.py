"""`ctxtune quickstart`: from nothing to an adapted model."""

from ctxtune.cli import console, freeze, options


def quickstart(out: options.Out = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Adapt a real model to real data, with no other input.

    Fetches SmolLM2-135M-Instruct once (93 MB), trains its last layers on 1,024 film reviews, prints what it learned and what
    it forgot, and leaves an adapter.
    """
    console.Quiet.on = quiet
    from ctxtune.commands.quickstart import quickstart as command

    voice = freeze.Voice()
    try:
        facts = command(out, voice)
    finally:
        voice.progress.close()
    console.emit(facts, json, lambda: freeze.result_table(facts))
    console.note(f"the adapter lies in {facts['adapter']['folder']}; use it with:")
    review = r"Review: a quiet, moving and very funny film\nSentiment:"
    console.note(f"  echo '{review}' | ctxtune generate --adapter {facts['out']} --max-tokens 1")
