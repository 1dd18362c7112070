"""What is found of a family by its structure: the rows of the table are a second source, and the reasons are told."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ctxtune.backend.config import read_config
from ctxtune.backend.describe import describe
from ctxtune.backend.load import load_base
from ctxtune.backend.skeleton import skeleton
from ctxtune.backend.structure import find_anatomy
from ctxtune.errors import ModelError

from ..conftest import FOUND, KINDS, WIDER

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 300,
    "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, *WIDER])
def test_a_family_of_the_table_is_found_as_it_stands_there(kind: str, model_folders: dict[str, Path]) -> None:
    folder = model_folders[kind]
    config, _ = read_config(folder)
    _, row = skeleton(folder)
    found = find_anatomy(config, folder)
    assert found.derived
    assert not row.derived
    for key in ("family", "kind", "backbone", "embeddings", "blocks", "norm", "head", "outward", "tuples"):
        assert getattr(found, key) == getattr(row, key), key
    for key in ("attn", "mlp", "norms"):  # the table has them in the order of a reader, the structure in its own
        assert sorted(getattr(found, key)) == sorted(getattr(row, key)), key


def config_of(family: str, **more: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **{**SIZES, **more})


GROUPED = {"num_key_value_heads": 2}
# Family -> its settings beside the sizes, and some of what is found: head, norm behind the blocks, attention, outward.
WORKING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cohere": (GROUPED, {"norms": ("input_layernorm",)}),
    "gemma2": ({**GROUPED, "head_dim": 8}, {"norm": "model.norm"}),
    "bloom": ({}, {"tuples": True, "embeddings": ("transformer.word_embeddings", "transformer.word_embeddings_layernorm")}),
    "gpt_neo": ({"attention_types": [[["global", "local"], 2]]}, {"tuples": True, "norm": "transformer.ln_f"}),
    "mpt": ({}, {"tuples": True, "attn": ("attn",), "mlp": ("ffn",)}),
    "openai-gpt": ({}, {"tuples": True, "norm": None}),
    "codegen": ({"rotary_dim": 4}, {"norms": ("ln_1",)}),
    "olmo": ({}, {"norm": "model.norm", "norms": ()}),
    "stablelm": (GROUPED, {"norm": "model.norm"}),
    "glm4": ({**GROUPED, "head_dim": 8}, {"blocks": "model.layers"}),
    "xglm": ({}, {"mlp": ("fc1", "fc2"), "norm": "model.layer_norm"}),
    "biogpt": ({}, {"backbone": "biogpt", "head": "output_projection"}),
    "modernbert": ({}, {"kind": "masked", "head": "decoder", "outward": ("head",)}),
    "electra": ({}, {"kind": "masked", "outward": ("generator_predictions",)}),
    "xlm-roberta": ({}, {"kind": "masked", "backbone": "roberta"}),
    "mpnet": ({}, {"kind": "masked", "tuples": True}),
}  # fmt: skip


@pytest.mark.parametrize("family", WORKING)
def test_families_that_are_found(family: str, model_folders: dict[str, Path]) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    settings, said = WORKING[family]
    masked = {"architectures": [MODEL_FOR_MASKED_LM_MAPPING_NAMES[family]]} if said.get("kind") else {}
    found = find_anatomy(config_of(family, **settings, **masked), model_folders["llama-tied"])
    assert (found.family, found.derived, found.kind) == (family, True, said.get("kind", "causal"))
    assert {key: getattr(found, key) for key in said} == said


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({}, "layers.0, a MambaBlock, holds no attention, only norm, mixer"),
    "recurrent_gemma": ({}, "holds no attention, only temporal_pre_norm, temporal_block"),
    "jamba": ({}, "a JambaMambaDecoderLayer, holds no attention, only mamba, feed_forward"),
    "rwkv": ({}, "attention.time_decay is not the weight or the bias of a module"),
    "mixtral": (GROUPED, "a mixture of experts is not read yet: .*experts.gate_up_proj"),
    "qwen3_moe": (GROUPED, "a mixture of experts is not read yet"),
    "gpt_oss": ({**GROUPED, "head_dim": 8}, "self_attn.sinks is not the weight"),
    "bart": ({}, "an encoder with a decoder"),
    "trocr": ({"d_model": 32}, "attends to another model's states as well: encoder_attn"),
    "albert": ({"architectures": ["AlbertForMaskedLM"]}, "no list of 4 blocks"),
    "xlm": ({"emb_dim": 32}, "several lists could be the 4 blocks: transformer.attentions, "),
    "rembert": ({"architectures": ["RemBertForMaskedLM"]}, "cannot be followed without numbers"),
    "fnet": ({}, "holds no attention, only fourier"),
    "vit": ({}, "transformers has no model of it that predicts tokens"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_families_that_lack_something(family: str, model_folders: dict[str, Path]) -> None:
    settings, said = REFUSED[family]
    with pytest.raises(ModelError, match=f"model family '{family}' is not supported: .*{said}") as caught:
        find_anatomy(config_of(family, **settings), model_folders["llama-tied"])
    assert "families that work: bert" in str(caught.value.hint)


def test_a_model_that_says_less_than_others(model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Olmo2ForCausalLM

    def silent(self: Any) -> None:
        raise NotImplementedError("not handled here")

    monkeypatch.setattr(Olmo2ForCausalLM, "get_output_embeddings", silent)
    with pytest.raises(ModelError, match="its structure cannot be read: not handled here"):
        read_config(model_folders["olmo2-untied"])


def test_a_config_cannot_ask_for_a_billion_modules(model_folders: dict[str, Path]) -> None:
    """MPT calls its depth n_layers; the header of the weights says that there cannot be so many."""
    with pytest.raises(ModelError, match=r"more than 1,\d\d\d parameters") as caught:
        find_anatomy(config_of("mpt", num_hidden_layers=10**9), model_folders["llama-tied"])
    assert "config.json" in str(caught.value)


def test_a_config_cannot_ask_for_a_terabyte_of_masks(model_folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"asks for [0-9,]+ bytes beside the weights"):
        find_anatomy(config_of("gpt_neo", attention_types=[[["global"], 4]], max_position_embeddings=10**6),
                     model_folders["llama-tied"])  # fmt: skip


def test_the_config_stays_as_it_was(model_folders: dict[str, Path]) -> None:
    config, _ = read_config(model_folders["olmo2-untied"])
    assert config.pad_token_id is not None
    assert config._attn_implementation != "eager"


@pytest.mark.parametrize("kind", FOUND)
def test_what_is_loaded_is_what_transformers_loads(kind: str, model_folders: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    base = load_base(model_folders[kind], "cpu")
    loader = AutoModelForMaskedLM if base.anatomy.kind == "masked" else AutoModelForCausalLM
    theirs = loader.from_pretrained(model_folders[kind], dtype=torch.float32).eval()
    ids = torch.arange(5, 37).reshape(2, 16)
    with torch.no_grad():
        assert torch.equal(base.model(input_ids=ids).logits, theirs(input_ids=ids).logits)


def test_an_encoder_without_its_head(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """DistilBERT's head is three modules: without them the files hold an encoder."""
    from transformers import AutoModelForMaskedLM

    folder = shutil.copytree(model_folders["distilbert-tied"], tmp_path / "encoder")
    whole: Any = AutoModelForMaskedLM.from_pretrained(folder)
    whole.distilbert.save_pretrained(folder)
    with pytest.raises(ModelError, match="tensors are missing") as caught:
        load_base(folder, "cpu")
    assert "an encoder without the head that fills a mask" in str(caught.value.hint)
    assert describe(folder).supported == "no: the files hold an encoder without the head that fills a mask"
