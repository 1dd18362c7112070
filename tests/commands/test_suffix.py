"""Virtual tokens behind what is asked, from the recipe to the adapter, with the words beside them that they start as."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ctxtune.adapter.read import open_adapter
from ctxtune.commands.evaluate import evaluate
from ctxtune.errors import RecipeError

from ..conftest import CHOICES, PROMPT, Listener
from .test_prompt import asked, dev, train  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path


def test_a_suffix_begins_as_its_text(
    model_folders: dict[str, Path],
    train: Path,  # noqa: F811
    dev: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Before the first step the scores are those of prompts that end in these words; by itself it repeats the prompt's end."""
    from ctxtune.commands.adapt import adapt

    model = model_folders["llama-tied"]
    more = {"method.kind": "suffix", "data.eval": str(dev), "method.init": "text:\nthe mood", "method.tokens": "auto"}
    facts = adapt(asked(model, train, tmp_path / "run", more), False, Listener())
    by_hand = {"model": str(model), "data.prompt": PROMPT + "the mood", "data.answer": "{{ label }}"}
    told = evaluate(None, {**by_hand, "data.choices": CHOICES, "data.eval": str(dev)}, [], None, False, lambda _: None)
    assert facts["start"]["scores"]["acc"] == told["scores"]["acc"]
    itself = adapt(asked(model, train, tmp_path / "itself", {"method.kind": "suffix"}), False, Listener())
    manifest = open_adapter(tmp_path / "itself").manifest
    assert manifest is not None
    assert manifest.shown is not None
    assert manifest.shown.texts[0].strip()
    assert PROMPT.endswith(manifest.shown.texts[0].strip())
    assert itself["method"]["tokens"] == 8


def test_a_suffix_writes_behind_the_prompt(
    model_folders: dict[str, Path],
    train: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """What is generated is what the model continues by hand, a word told as a vector at a time."""
    from ctxtune.adapter.attach import attach
    from ctxtune.backend.load import load_base
    from ctxtune.commands.adapt import adapt
    from ctxtune.commands.generate import asks_of_prompts, generate

    model = model_folders["llama-tied"]
    adapt(asked(model, train, tmp_path / "run", {"method.kind": "suffix", "method.tokens": 3}), False, Listener())
    prompts = ["Review: fine", "Review: a very dull film"]
    told = list(
        generate(asks_of_prompts(prompts), {"generate.max_tokens": 4}, tmp_path / "run", False, 4, lambda _: None)
    )
    base = load_base(model, "cpu")
    attach(base.model, open_adapter(tmp_path / "run"))
    for prompt, one in zip(prompts, told, strict=True):
        ids = [*base.tokenizer(prompt)["input_ids"], -1, -2, -3]
        for _ in range(4):
            with torch.no_grad():
                ids.append(int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert one["text"] == base.tokenizer.decode(ids[-4:], skip_special_tokens=True)


def test_demonstrations_do_not_stand_behind(model_folders: dict[str, Path], tmp_path: Path) -> None:
    for kind, init in (("suffix", "fewshot"), ("prefix", "prompt"), ("input", "prompt")):
        with pytest.raises(RecipeError, match=f"init {init} does not go with kind {kind}"):
            asked(model_folders["llama-tied"], tmp_path, tmp_path / "run", {"method.kind": kind, "method.init": init})


def test_a_suffix_is_distilled(model_folders: dict[str, Path], train: Path, dev: Path, tmp_path: Path) -> None:  # noqa: F811
    """It learns what the model says behind demonstrations, which it does not start as."""
    from ctxtune.commands.adapt import adapt

    more = {"method.kind": "suffix", "method.distill_from": "fewshot", "data.eval": str(dev), "train.steps": 9}
    facts = adapt(asked(model_folders["llama-tied"], train, tmp_path / "run", more), False, Listener())
    assert facts["scores"]["after"]["kl_teacher"] < facts["start"]["scores"]["kl_teacher"]
    assert facts["train"]["rows"] == 23  # and one demonstration
