"""The README.md of an adapter: what it is, what it did to the model, and how to use it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctxtune.adapter.manifest import Change, Manifest


def model_card(manifest: Manifest) -> str:
    """Markdown with the front matter that model hubs read."""
    base = manifest.base
    kind, task, given = "AutoModelForCausalLM" if base.causal else "AutoModelForMaskedLM", "generate", ""
    if manifest.classes:
        kind, task, given = "AutoModelForSequenceClassification", "eval", f", num_labels={len(manifest.classes)}"
    asked = {"generate": "--prompt 'text'", "eval": "--eval rows.jsonl"}[task]
    parts = [
        f"---\nbase_model: {json.dumps(base.name, ensure_ascii=False)}\n"
        f"library_name: peft\ntags: [ctxtune, {manifest.method}]\n---",
        f"# {manifest.method} adapter for {base.name}",
        f"Made by ctxtune {manifest.version} on {manifest.created}; {manifest.trainable:,} trained numbers, "
        f"seed {manifest.seed}, base quantised: {manifest.quant}.",
        "## Numbers",
        _table(manifest.scores, manifest.forgetting),
        *_about_classes(manifest),
        "## Use",
        f"```sh\nctxtune adapter verify . --model BASE\nctxtune {task} --model BASE --adapter . {asked}\n```",
        f"```python\nfrom peft import PeftModel\nfrom transformers import {kind}\n\n"
        f'model = PeftModel.from_pretrained({kind}.from_pretrained("BASE"{given}), ".")\n```',
        f"`BASE` is the folder of {base.name}, fingerprint `{base.fingerprint}`. "
        "On another base the numbers above do not hold.",
        "## Recipe",
        f"{_fence(manifest.recipe)}yaml\n{manifest.recipe.strip()}\n{_fence(manifest.recipe)}",
    ]
    if manifest.inputs:
        rows = [f"| {name} | `{digest}` |" for name, digest in manifest.inputs.items()]
        parts += ["## Inputs", "\n".join(["| input | hash |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def _about_classes(manifest: Manifest) -> list[str]:
    if not manifest.classes:
        return []
    named = ", ".join(json.dumps(name, ensure_ascii=False) for name in manifest.classes)
    return [
        f"The adapter brings a classifier along, which tells apart, in the order of its logits: {named}. Where the base's "
        "files hold none, it begins at zero: before training all choices are equally likely, and the first is taken. "
        "Forgetting is not measured: an encoder without the head that fills a mask predicts nothing to compare."
    ]


def _table(scores: Change, forgetting: Change) -> str:
    rows = [
        f"| {prefix}{name} | {_number(change.before.get(name))} | {_number(change.after.get(name))} |"
        for prefix, change in (("", scores), ("forgetting: ", forgetting))
        for name in dict.fromkeys([*change.before, *change.after])
    ]
    return "\n".join(["| measure | before | after |", "|---|---|---|", *rows]) if rows else "None were measured."


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _fence(text: str) -> str:
    """A fence longer than any run of backticks in the text."""
    length = 3
    while "`" * length in text:
        length += 1
    return "`" * length
