"""The README.md of an adapter: what it is, what it did to the model, and how to use it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ctxtune.data.prompt import names
from ctxtune.recipe.plural import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxtune.adapter.manifest import Change, Manifest, Shown


SCALED = "scaled"
"""the setting of an adapter that is a share of another: alpha in W + alpha (W' - W)"""
_BEFORE = (
    "the tokenizer writes them before every text, in the place of its special tokens, and the chat template before a "
    "conversation."
)
_BEHIND = (
    "the tokenizer writes them behind every text, and the chat template behind a conversation in which the model is to speak. "
    "They belong between a prompt and its answer: a harness that makes one text of both gets them behind the answer, where "
    "they do nothing. `ctxtune eval` puts them between the two."
)
_TOLD = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")
ids = tokenizer("PROMPT", return_tensors="pt")
told = model.generate(**ids, max_new_tokens=8)
print(tokenizer.decode(told[0, ids.input_ids.shape[1] :]))
```

```sh
ctxtune eval --model . --eval rows.jsonl --prompt PROMPT --answer ANSWER
```"""


def model_card(manifest: Manifest, in_peft: bool = False) -> str:
    """Markdown with the front matter that model hubs read; of an export `in_peft`, though the method's own file is not."""
    base = manifest.base
    kind, task, given = "AutoModelForCausalLM" if base.causal else "AutoModelForMaskedLM", "generate", ""
    if manifest.classes:
        kind, task, given = "AutoModelForSequenceClassification", "eval", f", num_labels={len(manifest.classes)}"
    asked = {"generate": "'text'", "eval": "--eval rows.jsonl"}[task]
    own = manifest.method == "mask" and not in_peft
    parts = [
        f"---\nbase_model: {json.dumps(base.name, ensure_ascii=False)}\n"
        f"library_name: {'ctxtune' if own else 'peft'}\ntags: [ctxtune, {manifest.method}]\n---",
        f"# {manifest.method} adapter for {base.name}",
        f"Made by ctxtune {manifest.version} on {manifest.created}; {manifest.trainable:,} trained numbers, "
        f"seed {manifest.seed}, base quantised: {manifest.quant}.",
        *_about_scaled(manifest.settings.get(SCALED)),
        "## Numbers",
        _table(manifest.scores, manifest.forgetting),
        *_about_leaked(manifest.leaked),
        *_about_classes(manifest),
        *_about_shown(manifest),
        "## Use",
        f"```sh\nctxtune adapter verify . --model BASE\nctxtune {task} --model BASE --adapter . {asked}\n```",
        _elsewhere(manifest, kind, given, own),
        f"`BASE` is the folder of {base.name}, fingerprint `{base.fingerprint}`. "
        "On another base the numbers above do not hold.",
        "## Recipe",
        f"{_fence(manifest.recipe)}yaml\n{manifest.recipe.strip()}\n{_fence(manifest.recipe)}",
    ]
    if manifest.inputs:
        rows = [f"| {name} | `{digest}` |" for name, digest in manifest.inputs.items()]
        parts += ["## Inputs", "\n".join(["| input | hash |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def words_card(manifest: Manifest, words: int, behind: bool, share: float, difference: float, dtype: str) -> str:
    """Of a checkpoint with so many words that were an adapter's vectors: how they were checked, in float32, and its type."""
    base, (first, *_, last) = manifest.base, names(words) * 2
    parts = [
        f"---\nbase_model: {json.dumps(base.name, ensure_ascii=False)}\n"
        f"library_name: transformers\ntags: [ctxtune, {manifest.method}]\n---",
        f"# {base.name} with a learned prompt of {counted(words, 'word')}",
        f"The model {base.name}, fingerprint `{base.fingerprint}`, in {dtype}, with the vectors of an adapter as words of its "
        f"vocabulary: method {manifest.method}, kind {manifest.settings.get('kind')}, seed {manifest.seed}, made by ctxtune "
        f"{manifest.version} on {manifest.created}.",
        "## The words",
        f"`{first}` to `{last}`: {_BEHIND if behind else _BEFORE}",
        f"The model never says them: on a probe all of them together had at most {share:.0e} of the probability, and the "
        f"log-probabilities of the other words are those of the adapter within {difference:.0e}.",
        "## Numbers",
        "Before: the base. After: the base with the adapter.",
        _table(manifest.scores, manifest.forgetting),
        *_about_leaked(manifest.leaked),
        "## Use",
        _TOLD,
        "## Recipe",
        "The adapter was made by this; a prompt is to be written as `data.prompt` says.",
        f"{_fence(manifest.recipe)}yaml\n{manifest.recipe.strip()}\n{_fence(manifest.recipe)}",
    ]
    return "\n\n".join(parts) + "\n"


def _about_scaled(alpha: float | None) -> list[str]:
    if alpha is None:
        return []
    return [f"It holds a share of what was trained, W + {alpha:g} (W' - W): what that scores was not measured."]


def _about_leaked(leaked: int) -> list[str]:
    if not leaked:
        return []
    return [f"Of the rows that were scored, {leaked:,} stand among those that were learned from: leakage."]


def _about_classes(manifest: Manifest) -> list[str]:
    if not manifest.classes:
        return []
    named = ", ".join(json.dumps(name, ensure_ascii=False) for name in manifest.classes)
    return [
        f"The adapter brings a classifier along, which tells apart, in the order of its logits: {named}. Where the base's "
        "files hold none, it begins at zero: before training all choices are equally likely, and the first is taken. "
        "Forgetting is not measured: an encoder without the head that fills a mask predicts nothing to compare."
    ]


def _is_suffix(manifest: Manifest) -> bool:
    return manifest.settings.get("kind") == "suffix"


def _about_shown(manifest: Manifest) -> list[str]:
    """What stands at a text."""
    shown = manifest.shown
    if shown is None:
        return []
    if shown.virtual:
        place = "before every text in the place of the tokenizer's special tokens"
        where = "between a prompt and its answer" if _is_suffix(manifest) else place
        end = f":{_fenced(shown.texts)}" if shown.texts else "."
        said = f"{counted(len(shown.virtual), 'virtual token')} were learned, and stand {where}."
        return ["## Virtual tokens", f"{said} They started as {manifest.start}{end}"]
    parts = [
        "## Demonstrations",
        f"Nothing was trained: the adapter holds the keys and values that the model makes of these {len(shown.tokens):,} "
        "tokens. A question goes on behind them, as if they stood in its prompt."
        f"{_fenced([shown.instruction, *shown.texts])}",
    ]
    if shown.bias:
        nats = ", ".join(f"{json.dumps(choice, ensure_ascii=False)} {bias:+.4f}" for choice, bias in shown.bias.items())
        parts.append(
            f"Calibration {shown.calibrate}, which ctxtune alone applies, adds to log p of the choices: {nats}."
        )
    return parts


def _elsewhere(manifest: Manifest, kind: str, given: str, own: bool) -> str:
    """How it is used without ctxtune; `own` is a file of a form that only ctxtune reads."""
    if manifest.settings.get("learn") == "bits":
        return (
            "PEFT has no type for weights that are switched off. For other programs they are written into the base, which is "
            "an ordinary model then:\n\n```sh\nctxtune adapter merge . --model BASE --out FOLDER\n```"
        )
    if own:
        return (
            "PEFT does not read masks as they are. For other programs the changes are written in a form that it does, or into "
            "the base, which is an ordinary model then:\n\n```sh\nctxtune adapter export . --model BASE --out FOLDER\n"
            "ctxtune adapter merge . --model BASE --out FOLDER\n```"
        )
    if _is_suffix(manifest):
        return (
            "PEFT has no virtual tokens that stand behind the input. For other programs they become words of an ordinary "
            "checkpoint:\n\n```sh\nctxtune adapter export . --to model --model BASE --out FOLDER\n```"
        )
    return _python(manifest.shown, kind, given, manifest.settings.get("kind", "prefix") != "prefix")


def _python(shown: Shown | None, kind: str, given: str, vectors: bool) -> str:
    """How plain PEFT loads the adapter, and is asked behind demonstrations: none of the tokens that it holds comes again."""
    more = "" if shown is None else ", AutoTokenizer"
    lines = ["from peft import PeftModel", f"from transformers import {kind}{more}", ""]
    lines.append(f'model = PeftModel.from_pretrained({kind}.from_pretrained("BASE"{given}), ".")')
    if shown is not None:
        lines = ["import torch", *lines, *_asked(len(shown.tokens), shown.alone, vectors)]
    return "\n".join(["```python", *lines, "```"])


def _asked(size: int, alone: bool, vectors: bool) -> list[str]:
    """A question behind `size` tokens that PEFT holds, asked and continued; its own `generate` (0.21) knows the cache by a
    name that transformers (5.20) no longer has."""
    if alone:
        ids = ['ids = tokenizer("QUESTION", add_special_tokens=False, return_tensors="pt").input_ids']
    else:
        ids = [
            f"# A question alone would be other tokens: these follow the first {size}, which the adapter holds.",
            f'ids = tokenizer("DEMONSTRATIONS" + "QUESTION", return_tensors="pt").input_ids[:, {size}:]',
        ]
    if vectors:
        return [
            'tokenizer = AutoTokenizer.from_pretrained("BASE")',
            *ids,
            f"logits = model(input_ids=ids).logits[:, {size}:]  # the virtual tokens have logits of their own",
        ]
    return [
        'tokenizer = AutoTokenizer.from_pretrained("BASE")',
        *ids,
        "logits = model(input_ids=ids).logits",
        f"# To write, go on from what is held: {size} tokens stand for it, whichever they are.",
        f"whole = torch.nn.functional.pad(ids, ({size}, 0))",
        "told = model.get_base_model().generate(",
        "    whole, attention_mask=torch.ones_like(whole), past_key_values=model.get_prompt(1), max_new_tokens=8",
        ")",
        "print(tokenizer.decode(told[0, whole.shape[1] :]))",
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


def _fenced(texts: Sequence[str]) -> str:
    """Texts, one fence each."""
    return "".join(f"\n\n{_fence(text)}\n{text.strip()}\n{_fence(text)}" for text in texts if text)


def _fence(text: str) -> str:
    """A fence longer than any run of backticks in the text."""
    length = 3
    while "`" * length in text:
        length += 1
    return "`" * length
