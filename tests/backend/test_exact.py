"""The check that a model found by structure passes before it is used: right ones pass, each way to be wrong is seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.backend.decode import require_causal
from ctxtune.backend.exact import check_going_on, check_structure
from ctxtune.backend.load import load_base
from ctxtune.backend.structure import find_anatomy
from ctxtune.errors import ModelError

from ..conftest import FOUND
from .test_structure import WORKING, config_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base


@pytest.mark.parametrize("kind", FOUND)
def test_it_is_checked_as_it_is_loaded(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    assert base.difference is not None
    assert base.difference is not None  # 0 where both sum in one order
    assert base.difference < 2e-6
    assert f"family {kind.partition('-')[0]!r} is not in the table" in base.remarks[1]
    assert base.anatomy.blocks in base.remarks[1]
    assert f"largest difference {base.difference:.0e}" in base.remarks[1]


def test_a_family_of_the_table_is_not(open_base: Callable[[str], Base]) -> None:
    base = open_base("llama-tied")
    assert (base.difference, base.structure, len(base.remarks)) == (None, None, 1)


def random_base(family: str, like: Base, folder: Path) -> Base:
    """A model of a family with random numbers, on the tokenizer of another."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    settings, said = WORKING.get(family, ({}, {}))
    config = config_of(family, **settings)
    row = replace(find_anatomy(config, folder), kind="masked") if said.get("kind") else find_anatomy(config, folder)
    torch.manual_seed(0)
    model = (AutoModelForMaskedLM if row.kind == "masked" else AutoModelForCausalLM).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return replace(like, model=model, anatomy=row, attention=model.config._attn_implementation, vocabulary=300)


@pytest.mark.parametrize(
    "family", ["cohere", "gemma2", "bloom", "gpt_neo", "mpt", "openai-gpt", "olmo", "xglm", "stablelm"]
)
def test_wherever_it_starts_it_says_the_same(
    family: str, open_base: Callable[[str], Base], model_folders: dict[str, Path]
) -> None:
    base = random_base(family, open_base("llama-tied"), model_folders["llama-tied"])
    assert check_structure(base) < 2e-6


@pytest.mark.parametrize("kind", [kind for kind in FOUND if not kind.startswith("distilbert")])
def test_whether_it_can_go_on_is_known(kind: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(kind)
    assert base.going_on is not None
    assert base.going_on is not None
    assert base.going_on < 2e-6
    require_causal(base)


def test_a_model_that_keeps_nothing_writes_nothing(
    open_base: Callable[[str], Base], model_folders: dict[str, Path]
) -> None:
    base = random_base("openai-gpt", open_base("llama-tied"), model_folders["llama-tied"])
    assert check_structure(base) < 2e-6
    with pytest.raises(ModelError, match=r"goes on from keys and values that were kept \(difference inf") as caught:
        require_causal(replace(base, going_on=check_going_on(base)))
    assert "it can be trained and scored" in str(caught.value.hint)


def test_a_wrong_memory_is_seen(open_base: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions that begin anew at every step."""
    from ctxtune.backend.past import Past

    base = open_base("olmo2-untied")
    monkeypatch.setattr(Past, "_positions", lambda self, ids: {"position_ids": torch.zeros_like(ids)})
    assert 1e-3 < check_going_on(base) < 10


WRONG: dict[str, dict[str, Any]] = {
    "without the last norm": {"norm": None},
    "with another norm": {"norm": "model.layers.0.post_attention_layernorm"},
    "a list that is no list of blocks": {"blocks": "model.layers.0.mlp"},
    "states handed on in tuples": {"tuples": True},
    "a backbone that takes no tokens": {"backbone": "model.norm"},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_a_wrong_anatomy_is_refused(changes: dict[str, Any], open_base: Callable[[str], Base]) -> None:
    base = open_base("olmo2-untied")
    wrong = replace(base, anatomy=replace(base.anatomy, **changes))
    with pytest.raises(
        ModelError, match=r"'olmo2' is not supported: found by structure, it (says in parts|cannot be run)"
    ):
        check_structure(wrong)
    assert check_structure(base) == base.difference


def test_numbers_that_are_none_are_refused(open_base: Callable[[str], Base]) -> None:
    base = open_base("olmo2-untied")
    with torch.no_grad():
        next(base.model.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="nan"):
        check_structure(base)


def test_a_model_that_reads_ahead_is_refused(open_base: Callable[[str], Base], model_folders: dict[str, Path]) -> None:
    """BERT's encoder as a causal model: nothing in its structure says that every token sees all others."""
    base = random_base("bert-generation", open_base("llama-tied"), model_folders["llama-tied"])
    with pytest.raises(
        ModelError, match=r"what stands behind a token changes its logits, by \d\.\de-0\d of the largest"
    ):
        check_structure(base)


def test_a_folder_that_is_not_exact_is_not_loaded(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxtune.backend import structure

    real = structure._derive
    monkeypatch.setattr(structure, "_derive", lambda *given: replace(real(*given), norm=None))
    with pytest.raises(ModelError, match=r"differs from the whole by \d\.\de"):
        load_base(model_folders["granite-tied"], "cpu")
