"""A GGUF file becomes a folder with the dequantised values, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
import torch

from ctxtune.backend.folder import check_folder
from ctxtune.backend.gguf import convert
from ctxtune.backend.library import hush
from ctxtune.backend.load import load_base
from ctxtune.errors import ModelError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

Q4 = gguf.GGMLQuantizationType.Q4_1
WIDTH, HIDDEN, VOCABULARY = 64, 96, 32


def write(path: Path) -> dict[str, Any]:
    """A Llama of one layer with tied embeddings, its matrices in Q4_1; returns what they mean as float32."""
    chance = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    tokens = ["<s>", "</s>", *(chr(ord("a") + i) for i in range(26)), "ab", "cd", "ef", "gh"]
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *([1] * 30)])
    writer.add_token_merges(["a b", "c d", "e f", "g h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {
        "token_embd": (VOCABULARY, WIDTH), "blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (WIDTH // 2, WIDTH),
        "blk.0.attn_v": (WIDTH // 2, WIDTH), "blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_gate": (HIDDEN, WIDTH),
        "blk.0.ffn_up": (HIDDEN, WIDTH), "blk.0.ffn_down": (WIDTH, HIDDEN), "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,), "output_norm": (WIDTH,),
    }  # fmt: skip
    meant = {}
    for name, shape in shapes.items():
        values = chance.standard_normal(shape).astype("f4")
        if len(shape) == 2:
            packed = gguf.quantize(values, Q4)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=Q4)
            values = gguf.dequantize(packed, Q4)
        else:
            writer.add_tensor(f"{name}.weight", values)
        meant[name] = torch.tensor(values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


PLACES = {
    "token_embd": "model.embed_tokens", "blk.0.attn_v": "model.layers.0.self_attn.v_proj",
    "blk.0.attn_output": "model.layers.0.self_attn.o_proj", "blk.0.ffn_gate": "model.layers.0.mlp.gate_proj",
    "blk.0.ffn_up": "model.layers.0.mlp.up_proj", "blk.0.ffn_down": "model.layers.0.mlp.down_proj",
    "blk.0.attn_norm": "model.layers.0.input_layernorm", "output_norm": "model.norm",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of the libraries that read GGUF
def test_conversion(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    meant = write(tmp_path / "tiny.gguf")
    convert(tmp_path / "tiny.gguf", tmp_path / "model", {"model": "tiny"})
    assert capfd.readouterr() == ("", "")
    check_folder(tmp_path / "model")
    base = load_base(tmp_path / "model", "cpu")
    state = base.model.state_dict()
    for name, place in PLACES.items():
        assert torch.equal(state[f"{place}.weight"], meant[name]), name
    assert "Tiny" not in (tmp_path / "model" / "config.json").read_text()
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "model").glob("*.json"))
    assert base.tokenizer.encode("abcx", add_special_tokens=False) == [28, 4, 25]


@pytest.mark.filterwarnings("ignore")  # of the libraries that read GGUF
def test_logits_are_those_of_the_file(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    write(tmp_path / "tiny.gguf")
    convert(tmp_path / "tiny.gguf", tmp_path / "model", {"model": "tiny"})
    hush()
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).eval()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected(ids).logits)


@pytest.mark.filterwarnings("ignore")  # of the libraries that read GGUF
@pytest.mark.parametrize("size", [0, 3, 100, 2000])
def test_a_cut_file(size: int, tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(data[:size])
    with pytest.raises(ModelError, match=r"not a GGUF file|not a sound GGUF|promises"):
        convert(tmp_path / "tiny.gguf", tmp_path / "model", {"model": "tiny"})
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


@pytest.mark.filterwarnings("ignore")  # of the libraries that read GGUF
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("ENOSPC", "I/O error: No space left on device (os error 28)", "no room on the disk"),
        ("unknown", "something else", "cannot be written"),
    ],
)
def test_no_room(name: str, error: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    def fail(*args: object, **options: object) -> None:
        raise SafetensorError(f"Error while serializing: {error}")

    write(tmp_path / "tiny.gguf")
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fail)
    with pytest.raises(StorageError, match=message):
        convert(tmp_path / "tiny.gguf", tmp_path / "model", {"model": "tiny"})
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]
