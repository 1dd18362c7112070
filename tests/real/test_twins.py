"""The same adapter three ways: attached by ctxtune, loaded by PEFT alone, merged into a folder that transformers loads."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import pytest
import torch

from .conftest import ROWS

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Ended

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]  # peft's own
LENGTHS = (40, 17, 3)


@pytest.fixture(scope="module")
def attached(model: Path, adapter: Path) -> torch.Tensor:
    """Logits of the plain base with the adapter attached."""
    from ctxtune.adapter.attach import attached
    from ctxtune.adapter.read import open_adapter

    base = load(model)
    plain = logits(base)
    with attached(base, open_adapter(adapter)):
        found = logits(base)
    assert (found - plain).abs().max() > 0.1
    assert torch.equal(logits(base), plain)
    return found


def test_peft_alone_loads_the_adapter(model: Path, exported: Path, attached: torch.Tensor) -> None:
    from peft import PeftModel

    theirs = logits(PeftModel.from_pretrained(load(model), exported).eval())
    assert (theirs - attached).abs().max() <= 2e-4


def test_transformers_loads_the_merged_model(merge: Ended, attached: torch.Tensor) -> None:
    from pathlib import Path

    theirs = logits(load(Path(merge.json["folder"])))
    assert (theirs - attached).abs().max() <= 1e-5 * attached.abs().max()


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("prefix", 12),
        ("input", 1),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("input", 12), ("residual", 1), ("ptuning", 1))),
    ],
)
def test_peft_alone_stands_behind_a_learned_prompt(kind: str, steps: int, model: Path, tmp_path: Path) -> None:
    """Steps from words, at twelve of them the loss falls: PEFT says of a text what the run's own adapter does."""
    from peft import PeftModel

    from ctxtune.adapter.keys import held_prefix
    from ctxtune.adapter.read import open_adapter
    from ctxtune.backend.load import load_base
    from ctxtune.backend.prefix import going_on
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.adapt import adapt
    from ctxtune.recipe.load import load as load_recipe

    from ..conftest import Listener

    with ROWS.open() as file:
        (tmp_path / "rows.jsonl").write_text("".join(islice(file, 4 + steps)))
    facts = adapt(load_recipe(None, {
        "model": str(model), "data.train": str(tmp_path / "rows.jsonl"), "data.eval": str(tmp_path / "rows.jsonl"),
        "data.prompt": "Review: {{ text }}\nSentiment:", "data.answer": "{{ label }}", "data.choices": ["negative", "positive"],
        "method.name": "prompt", "method.kind": kind, "method.init": "text:Is the review negative or positive?",
        "train.steps": steps, "train.batch": 4,
        "train.lr": 1e-2 if steps > 1 else 1e-3, "forget.probe": "none",
        "out": str(tmp_path / "run"),
    }), False, Listener())  # fmt: skip
    after, begun = facts["scores"]["after"]["loss"], facts["start"]["scores"]["loss"]
    assert after < (0.8 if steps > 1 else 1.0) * begun
    base = load_base(model, "cpu")
    trunk = Trunk(base)
    prefix = held_prefix(trunk, open_adapter(tmp_path / "run"))
    ids = torch.arange(100, 140)[None]
    with torch.no_grad():
        ours = base.model(input_ids=ids, **going_on(trunk, prefix, torch.ones_like(ids))).logits
        theirs = PeftModel.from_pretrained(load(model), tmp_path / "run" / "adapter").eval()(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).logits[:, -ids.shape[1] :]  # fmt: skip
    assert (theirs - ours).abs().max() <= 2e-4


def test_peft_alone_answers_as_behind_examples(model: Path, tmp_path: Path) -> None:
    """16 examples as an adapter: PEFT given a question says what the base says of all the text; eval what fewshot said."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    from ctxtune.adapter.read import open_adapter
    from ctxtune.commands.evaluate import evaluate
    from ctxtune.commands.fewshot import fewshot
    from ctxtune.recipe.load import load as load_recipe

    rows, folder = tmp_path / "rows.jsonl", tmp_path / "adapter"
    rows.write_text("".join(ROWS.read_text("utf-8").splitlines(keepends=True)[:8]), "utf-8")
    given = {"model": str(model), "data.eval": str(rows), "device": "cpu", "method.calibrate": "pmi"}
    made = fewshot(load_recipe("fewshot", given), [].append, save=folder)
    assert made["adapter"]["question_alone"]
    again = evaluate(None, {"data.eval": str(rows), "device": "cpu"}, [], folder, False, [].append)
    for name in ("acc", "acc_norm", "loss"):
        assert again["scores"][name] == pytest.approx(made["scores"][name], abs=1e-4)
    manifest = open_adapter(folder).manifest
    assert manifest is not None
    assert manifest.shown is not None
    base, tokenizer = load(model), AutoTokenizer.from_pretrained(model)
    question = "Review: a fine and moving film\nSentiment:"
    whole = tokenizer(manifest.shown.front + question, return_tensors="pt").input_ids
    ids = tokenizer(question, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = base(input_ids=whole).logits[0, -ids.shape[1] :]
        found = PeftModel.from_pretrained(base, folder).eval()(input_ids=ids).logits[0]
    assert (found - expected).abs().max() <= 2e-4


def load(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Of the real tokens of rows padded on the right, and of the shortest row alone: (tokens, vocabulary)."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 49000, (length,), generator=generator) for length in LENGTHS]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        padded = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        alone = model(input_ids=rows[-1][None]).logits[0]
    return torch.cat([padded, alone])
