"""The tasks on which ctxtune is compared with lm-evaluation-harness, each written once for both.

`prompt`, `answer` and `choices` are Jinja for either side. `max_length` cuts on the left; `bos` makes the tokenizer put
its BOS token before every text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
SENTIMENT = ["negative", "positive"]


@dataclass(frozen=True)
class Task:
    """One comparison; `choices` is a list, the name of a row's field, or None for free answers and running text."""

    rows: str
    prompt: str = ""
    answer: str = ""
    choices: list[str] | str | None = None
    max_length: int | None = None
    bos: bool = False


REVIEW, QUESTION = "Review: {{ text }}\nSentiment:", "Question: {{ question }}\nAnswer:"
TASKS = {
    "sst2": Task("sst2.jsonl", REVIEW, "{{ label }}", SENTIMENT),
    "mr": Task("mr.jsonl", REVIEW, "{{ label }}", SENTIMENT),
    "mr_bos": Task("mr.jsonl", REVIEW, "{{ label }}", SENTIMENT, bos=True),
    "arc_easy": Task("arc_easy.jsonl", QUESTION, "{{ answer }}", "choices"),
    "arc_challenge": Task("arc_challenge.jsonl", QUESTION, "{{ answer }}", "choices"),
    "lambada": Task("lambada.jsonl", "{{ context }}", "{{ target }}"),
    "lambada_cut": Task("lambada.jsonl", "{{ context }}", "{{ target }}", max_length=48),
    "lambada_bos_cut": Task("lambada.jsonl", "{{ context }}", "{{ target }}", max_length=48, bos=True),
    "wikitext": Task("wikitext.txt", max_length=512),
}


def with_bos(model: Path, out: Path) -> Path:
    """A copy of a model folder, its weights linked, whose tokenizer puts BOS before every text by default."""
    out.mkdir(parents=True)
    for path in model.iterdir():
        (out / path.name).symlink_to(path.resolve())
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    bos = config["bos_token"] if isinstance(config["bos_token"], str) else config["bos_token"]["content"]
    number = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == bos)
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }
    (out / "tokenizer.json").unlink()
    (out / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return out


def expected() -> dict[str, Any]:
    """What lm-evaluation-harness found."""
    found: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
    return found
