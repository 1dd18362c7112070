"""Tiny random models saved as folders, and adapters of them as ctxtune writes them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ctxtune.adapter.card import model_card
from ctxtune.adapter.container import layer_config, layer_tensors
from ctxtune.adapter.manifest import BaseModel, Change, Manifest
from ctxtune.adapter.mask import DELTA, encode, sizes_text
from ctxtune.adapter.write import write_adapter
from ctxtune.backend.fingerprint import fingerprint
from ctxtune.backend.library import hush
from ctxtune.backend.mask import Part, units

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from ctxtune.backend.mask import Kind

KINDS = ("llama-tied", "llama-untied", "gpt2-tied", "gpt2-untied", "bert-tied")
MATRICES = r"\.\d+\..*(proj|c_attn|c_fc|query|key|value|dense)\.weight$"
"""the linear layers of the blocks"""
TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(64)}, "unk_token": "w0"},
}  # fmt: skip


def build(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model of two layers whose every parameter, norms and biases included, is random."""
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    family, _, tie = kind.partition("-")
    tied = tie == "tied"
    torch.manual_seed(seed)
    model: nn.Module
    if family == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=64, tie_word_embeddings=tied))
    elif family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 32}
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, tie_word_embeddings=tied))
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = BertForMaskedLM(BertConfig(**sizes, vocab_size=64, max_position_embeddings=32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype).eval().requires_grad_(False)


def save(model: nn.Module, folder: Path, **options: str) -> Path:
    hush()
    model.save_pretrained(folder, **options)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER), encoding="utf-8")
    named = {
        "tokenizer_class": "PreTrainedTokenizerFast"
    }  # else the family's own class reads its own kind of vocabulary
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    return folder


def logits(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(24).reshape(2, 12) * 2 % 64
    with torch.no_grad():
        return model(input_ids=ids).logits


@dataclass
class Made:
    """A base folder, the adapter made on it, and the logits that the adapted model must have."""

    kind: str
    base: Path
    adapter: Path
    manifest: Manifest
    base_logits: torch.Tensor
    logits: torch.Tensor


@dataclass
class Moved(Made):
    """A mask adapter; `dense` holds the whole of each D, as it is in the file."""

    mask: dict[str, Part]
    dense: dict[str, torch.Tensor]


def chosen(model: nn.Module, part: str) -> dict[str, nn.Module]:
    """Leaf modules of the last layer and the norm after it; with `all` every leaf module that has parameters."""
    leaves = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if not any(True for _ in module.children()) and any(True for _ in module.parameters())
    }
    if part == "all":
        return leaves
    return {name: module for name, module in leaves.items() if ".1." in name or name.endswith((".norm", ".ln_f"))}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CTXTUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def make(tmp_path: Path, home: Path) -> Callable[..., Made]:
    """make(kind, part="last", dtype=float32): train by adding noise, and write the adapter."""

    def make(kind: str, part: str = "last", dtype: torch.dtype = torch.float32) -> Made:
        model = build(kind, dtype=dtype)
        base = save(model, tmp_path / kind)
        before = logits(model)
        modules = chosen(model, part)
        with torch.no_grad():
            for parameter in {id(p): p for module in modules.values() for p in module.parameters()}.values():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        values = {name: dict(module.named_parameters()) for name, module in modules.items()}
        causal = not kind.startswith("bert")
        manifest = Manifest(
            method="freeze",
            settings={"layers": "last:1"},
            recipe=f"ctxtune: 1\nmodel: {base}\n",
            base=BaseModel(str(base), fingerprint(base), causal),
            seed=0,
            trainable=sum(p.numel() for p in {id(p): p for v in values.values() for p in v.values()}.values()),
            scores=Change({"acc": 0.5}, {"acc": 0.75}),
            forgetting=Change({}, {"kl": 0.0125}),
            created="2025-01-02T03:04:05Z",
        )
        adapter = tmp_path / f"{kind}-adapter"
        config = layer_config(values, str(base), causal)
        write_adapter(adapter, layer_tensors(values), manifest, config, model_card(manifest))
        return Made(kind, base, adapter, manifest, before, logits(model))

    return make


def drawn(kind: Kind, share: float, size: tuple[int, ...] = (64, 96), seed: int = 3) -> Part:
    """Of a tensor, a share of its units by lot."""
    if kind == "whole":
        return Part(kind, size, np.arange(0))
    count = units(kind, size)
    index = np.random.default_rng(seed).choice(count, max(1, round(share * count)), replace=False)
    return Part(kind, size, np.sort(index))


@pytest.fixture
def move(tmp_path: Path, home: Path) -> Callable[..., Moved]:
    """move(kind, shape="columns", pattern=blocks' matrices, share=0.2, stored=bfloat16, seed=0, name="", apart=None): a mask
    adapter whose changes are noise; with `apart` it chooses all that this one of the same shape does not."""

    def move(
        kind: str, shape: Kind = "columns", pattern: str = MATRICES, share: float = 0.2,
        stored: torch.dtype = torch.bfloat16, seed: int = 0, name: str = "", apart: Moved | None = None,
    ) -> Moved:  # fmt: skip
        model = build(kind)
        base = tmp_path / kind if (tmp_path / kind).exists() else save(model, tmp_path / kind)
        before = logits(model)
        parameters = {key: value for key, value in model.named_parameters() if re.search(pattern, key)}
        mask, dense, tensors = {}, {}, {}
        torch.manual_seed(seed)
        for number, (key, value) in enumerate(parameters.items()):
            size = tuple(value.shape)
            mask[key] = drawn(shape if len(size) == 2 else "whole", share, size, 100 * seed + number)
            if apart is not None:
                left = np.setdiff1d(np.arange(units(shape, size)), apart.mask[key].index)
                mask[key] = Part(shape, size, left)
            change = (torch.randn(mask[key].shape) * 0.05).to(stored)
            tensors |= {f"{key}.{mask[key].kind}": torch.from_numpy(encode(mask[key])), key + DELTA: change}
            dense[key] = torch.zeros(size)
            dense[key].view(-1)[mask[key].entries()] = change.float().reshape(-1)
            with torch.no_grad():
                value += dense[key]
        manifest = Manifest(
            method="mask",
            settings={"select": "random", "shape": shape},
            recipe=f"ctxtune: 1\nmodel: {base}\n",
            base=BaseModel(str(base), fingerprint(base), not kind.startswith("bert")),
            seed=0,
            trainable=sum(part.numel for part in mask.values()),
            created="2025-01-02T03:04:05Z",
        )
        adapter = tmp_path / (name or f"{kind}-{shape}")
        write_adapter(adapter, tensors, manifest, None, model_card(manifest), sizes_text(mask))
        return Moved(kind, base, adapter, manifest, before, logits(model), mask, dense)

    return move
