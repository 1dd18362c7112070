"""Choices are scored as a plain loop over transformers scores them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from .conftest import ROWS, TASK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Ended

pytestmark = pytest.mark.real
COUNT = 12
CHOICES = ("negative", "positive")


def by_hand(folder: Path, rows: list[dict[str, str]]) -> torch.Tensor:
    """log p(choice | prompt) in nats, (rows, choices): one row, one choice, one forward pass after the other."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for row in rows:
        for choice in CHOICES:
            prompt = f"Review: {row['text']}\nSentiment:"
            context = tokenizer(prompt)["input_ids"]
            whole = tokenizer(f"{prompt} {choice}")["input_ids"]
            assert whole[: len(context)] == context
            with torch.no_grad():
                log_p = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            found.append(sum(float(log_p[t - 1, whole[t]]) for t in range(len(context), len(whole))))
    return torch.tensor(found).view(len(rows), len(CHOICES))


def by_ctxtune(folder: Path, path: Path) -> torch.Tensor:
    from ctxtune.backend.load import load_base
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands import prepare
    from ctxtune.evals.choice import Requests
    from ctxtune.recipe.data import Data

    data = Data(prompt=TASK[1], answer=TASK[3], choices=list(CHOICES))
    templates = prepare.compile_templates(data)
    base = load_base(folder, "cpu")
    spec = prepare.encoder(data, templates, base.tokenizer, base.anatomy, base.max_length)
    rows = prepare.to_score(prepare.read_source(str(path), data, templates, None, "eval").rows, spec)
    with Trunk(base) as trunk:
        found = Requests(trunk, rows.requests).loglikelihoods()
    return torch.tensor([ll for ll, _ in found]).view(-1, len(CHOICES))


def test_every_choice_has_the_plain_loop_s_log_likelihood(
    model: Path, ctxtune: Callable[..., Ended], tmp_path: Path
) -> None:
    lines = ROWS.read_text("utf-8").splitlines(keepends=True)[:COUNT]
    path, rows = tmp_path / "rows.jsonl", [json.loads(line) for line in lines]
    path.write_text("".join(lines), encoding="utf-8")
    expected = by_hand(model, rows)
    assert (by_ctxtune(model, path) - expected).abs().max() < 1e-3
    done = ctxtune("eval", "--model", model, "--eval", path, *TASK, "--json")
    assert done.code == 0, done.err
    gold = torch.tensor([CHOICES.index(row["label"]) for row in rows])
    assert done.json["scores"]["acc"] == pytest.approx(float((expected.argmax(1) == gold).double().mean()))
    right = expected.gather(1, gold[:, None])
    assert done.json["scores"]["loss"] == pytest.approx(-float(right.mean()), abs=1e-3)
