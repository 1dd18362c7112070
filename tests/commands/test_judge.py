"""How far a tuned model is from its base on the rows to score themselves, against what both say of each row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ctxtune.adapter.attach import attach
from ctxtune.adapter.read import open_adapter
from ctxtune.backend.load import load_base
from ctxtune.commands.evaluate import evaluate

from ..conftest import Killed, kill_at, review_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Adapt = Callable[..., dict[str, Any]]

PROMPT: dict[str, Any] = {"method.layers": None, "method.name": "prompt", "method.init": "vocab", "method.tokens": 3}
WAYS: dict[str, dict[str, Any]] = {
    "freeze": {"train.lr": 1e-2},
    "prefix": {**PROMPT, "train.lr": 1e-2},
    "suffix": {**PROMPT, "method.kind": "suffix", "train.lr": 1e-1},
}


def shares(adapter: Path | None, model: Path, dev: Path, out: Path) -> Any:
    """What a model says of each row's choices, (rows, choices)."""
    given: dict[str, object] = {"data.eval": str(dev), "device": "cpu"}
    given |= {"model": str(model)} if adapter is None else {}
    if adapter is None:
        from ..conftest import CHOICES
        from ..conftest import PROMPT as ASKED

        given |= {"data.prompt": ASKED, "data.answer": "{{ label }}", "data.choices": CHOICES}
    evaluate(None, given, [], adapter, False, lambda text: None, out)
    lls = np.array([json.loads(line)["said"]["ll"] for line in out.read_text().splitlines()])
    return np.exp(lls) / np.exp(lls).sum(1, keepdims=True)


@pytest.mark.parametrize("way", WAYS)
def test_kl_over_the_choices(way: str, adapt: Adapt, dev: Path, model_folders: dict[str, Path], tmp_path: Path) -> None:
    done = adapt(more={"data.eval": str(dev), "train.steps": 6, **WAYS[way]})
    p, q = (
        shares(adapter, model_folders["llama-tied"], dev, tmp_path / f"{name}.jsonl")
        for name, adapter in (("base", None), ("tuned", tmp_path / "run"))
    )
    wanted = float((p * np.log(p / q)).sum(1).mean())
    assert wanted > 1e-3
    assert done["forgetting"]["after"]["task_kl"] == pytest.approx(wanted, rel=1e-3)
    assert not any("kl_base" in name for name in done["scores"]["after"])
    if way != "freeze":
        assert done["start"]["forgetting"]["task_kl"] > 0


def test_kl_of_free_answers(adapt: Adapt, dev: Path, model_folders: dict[str, Path], tmp_path: Path) -> None:
    done = adapt(more={"data.eval": str(dev), "data.choices": None, "train.steps": 6, "train.lr": 1e-2})
    base, tuned = (load_base(model_folders["llama-tied"], "cpu") for _ in range(2))
    attach(tuned.model, open_adapter(tmp_path / "run"))
    total, count = 0.0, 0
    for row in review_rows(10, 30):
        prompt = base.tokenizer(f"Review: {row['text']}\nSentiment:")["input_ids"]
        answer = base.tokenizer(f" {row['label']}", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*prompt, *answer]])  # the last asks for the end of the text
        with torch.no_grad():
            was, now = (
                one.model(input_ids=ids).logits[0, len(prompt) - 1 :].double().log_softmax(-1) for one in (base, tuned)
            )
        total += (was.exp() * (was - now)).sum().item()
        count += len(was)
    assert done["forgetting"]["after"]["task_kl"] == pytest.approx(total / count, rel=1e-3)


@pytest.mark.parametrize("choices", [True, False])
def test_a_run_that_goes_on_says_the_same(choices: bool, adapt: Adapt, dev: Path) -> None:
    more = {"data.eval": str(dev), "train.steps": 4, "train.save_every": 2, "train.lr": 1e-2}
    more |= {} if choices else {"data.choices": None}
    straight = adapt(out="straight", more=more)
    with pytest.raises(Killed):
        adapt(out="broken", more=more, at=kill_at(3))
    broken = adapt(out="broken", more=more, resume=True)
    assert broken["forgetting"] == straight["forgetting"]
    assert straight["forgetting"]["after"]["task_kl"] > 0


def test_a_new_classifier_has_no_base(adapt: Adapt, dev: Path) -> None:
    assert "task_kl" not in adapt("bert-headless", more={"data.eval": str(dev)})["forgetting"]["after"]
