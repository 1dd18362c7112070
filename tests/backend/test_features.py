"""Features of texts against transformers' own hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ctxtune.backend.features import text_features
from ctxtune.backend.trunk import Trunk

from ..conftest import BAD, GOOD, NUM_LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ctxtune.backend.load import Base

TEXTS = ["good", *GOOD, "", *BAD]


def by_hand(base: Base, texts: Sequence[str]) -> NDArray[np.float32]:
    """(N, D): the mean of what enters block 2 of 4, each text by itself, without its first token."""
    found = []
    for text in texts:
        ids = base.tokenizer(text)["input_ids"] or [0]
        with torch.no_grad():
            states = base.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        assert len(states) == NUM_LAYERS + 1
        found.append(states[2][0, 1 if len(ids) > 1 else 0 :].mean(0).numpy())
    return np.stack(found)


@pytest.mark.parametrize(
    "kind", ["llama-tied", "gpt2-tied", "opt-tied", "qwen3-sliding-tied", "gemma3_text-tied", "falcon-tied"]
)
def test_features_are_means_of_hidden_states(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    found = text_features(base, TEXTS, "off", "m")
    assert found == pytest.approx(by_hand(base, TEXTS), abs=1e-5)


def test_a_text_longer_than_the_model_reads_is_its_end(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    ids = base.tokenizer(" ".join(GOOD * 9))["input_ids"][-base.max_length :]
    with torch.no_grad():
        states = base.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[2]
    assert text_features(base, [" ".join(GOOD * 9)], "off", "m")[0] == pytest.approx(
        states[0, 1:].mean(0).numpy(), abs=1e-5
    )


def test_kept_features_are_not_made_again(open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    base = open_base("llama-tied")
    first = text_features(base, TEXTS, "disk", "m")
    monkeypatch.setattr(Trunk, "enter", lambda *_: pytest.fail("the model was run again"))
    assert np.array_equal(text_features(base, TEXTS, "disk", "m"), first)
    with pytest.raises(pytest.fail.Exception, match="run again"):
        text_features(base, TEXTS, "disk", "another model")
