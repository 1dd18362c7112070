"""The same adapter three ways: attached by ctxtune, loaded by PEFT alone, merged into a folder that transformers loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

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
