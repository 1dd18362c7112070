"""A model that knows nothing yet: plain classes of transformers, so that what it becomes loads anywhere.

Inputs of a matrix of `n` columns are summed by numbers of variance 1 / 3n, those of torch's own linear layers. What writes into
the states, and the head, begin at zero: a new block changes nothing, every token is equally likely (Zhang et al. 2019, Fixup;
modded-nanogpt).

`previous_heads` of each block begin as previous-token heads, which copying what was said before is built from (Olsson et al.
2022), where others find them after hundreds of steps; that attention begins as what it mostly becomes is the idea of Trockman &
Kolter (2023). A rotary head turns pair i of its numbers by t_i a token: with a bias s (1, 0) of its query and s (cos n t_i,
sin n t_i) of its key in the pairs that turn fastest, the token `d` before scores

    s^2 / sqrt(head) sum_i cos((d - n) t_i)

which is highest, and takes nine tenths of the attention, at d = n.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ctxtune.backend.anatomy import FAMILIES, Anatomy
from ctxtune.backend.flop import flop_a_token
from ctxtune.backend.library import hush

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ctxtune.recipe.pretrain import Pretrain

_FAMILY = {"neox": "gpt_neox"}
_WRITERS = ("o_proj", "down_proj", "c_proj", "attention.dense", "dense_4h_to_h")
_EMBEDDED = 0.02
_LOUD = 5.0
"""s of a head that looks back"""


def make_model(settings: Pretrain, vocabulary: int, end: int, seed: int) -> tuple[nn.Module, Anatomy]:
    """A new model of a recipe, float32 on the CPU, and the anatomy of its family; the same seed makes the same numbers."""
    parts = _parts(settings)
    model = shape_only(settings, vocabulary, end)
    model.to_empty(device="cpu")
    model.tie_weights()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.apply(model._init_weights)  # norms, biases, and what is computed from the settings
        _begin(model, parts)
        for n in range(1, settings.looking_back + 1):
            _look_back(model, n)
    made: nn.Module = model
    return made, parts.fitted(made)


def shape_only(settings: Pretrain, vocabulary: int, end: int) -> Any:
    """The same without numbers."""
    from transformers import AutoModelForCausalLM

    hush()
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(_config(settings, vocabulary, end), dtype=torch.float32)


def flop_of(settings: Pretrain, vocabulary: int) -> int:
    """FLOP for a token that a model of a recipe learns from, in full rows."""
    model = shape_only(settings, vocabulary, 0)
    return flop_a_token(model, _parts(settings).fitted(model), settings.row)


def _parts(settings: Pretrain) -> Anatomy:
    """The row of its family."""
    return FAMILIES[_FAMILY.get(settings.arch, settings.arch)]


def _config(settings: Pretrain, vocabulary: int, end: int) -> Any:
    from transformers import AutoConfig

    width, heads, ids = settings.states, settings.attention_heads, {"bos_token_id": end, "eos_token_id": end}
    tied = {"tie_word_embeddings": settings.tie, "vocab_size": vocabulary, **ids}
    if settings.arch == "gpt2":
        return AutoConfig.for_model(
            "gpt2", n_positions=settings.row, n_embd=width, n_layer=settings.depth, n_head=heads,
            n_inner=settings.inner, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **tied,
        )  # fmt: skip
    shape = {
        "hidden_size": width, "intermediate_size": settings.inner, "num_hidden_layers": settings.depth,
        "num_attention_heads": heads, "max_position_embeddings": settings.row, **tied,
    }  # fmt: skip
    if settings.arch == "neox":
        return AutoConfig.for_model("gpt_neox", **shape)
    more = {"num_key_value_heads": heads, "head_dim": width // heads, "attention_bias": settings.looking_back > 0}
    return AutoConfig.for_model(settings.arch, **shape, **more)


def _begin(model: nn.Module, anatomy: Anatomy) -> None:
    """Numbers of all matrices."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_submodule(anatomy.head)
    tied = any(head.weight is model.get_submodule(name).weight for name in anatomy.embeddings[:1])
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(std=_EMBEDDED)
            elif isinstance(module, nn.Linear | Conv1D):
                if (module is head and not tied) or name.endswith(_WRITERS):
                    module.weight.zero_()
                elif module is not head:
                    inputs = module.weight.shape[0 if isinstance(module, Conv1D) else 1]
                    module.weight.normal_(std=(3 * inputs) ** -0.5)


@torch.no_grad()
def _look_back(model: Any, n: int) -> None:
    """Let head n of each block, counted from 1, begin on the token that stands `n` before."""
    for block in model.model.layers:
        attention = block.self_attn
        head = attention.head_dim
        turns = model.model.rotary_emb.inv_freq[: max(1, head // 4)]
        first, second = ((n - 1) * head + half * head // 2 for half in (0, 1))
        attention.q_proj.bias[first : first + len(turns)] = _LOUD
        attention.k_proj.bias[first : first + len(turns)] = _LOUD * torch.cos(n * turns)
        attention.k_proj.bias[second : second + len(turns)] = _LOUD * torch.sin(n * turns)


def matrices(model: nn.Module, anatomy: Anatomy) -> Mapping[str, nn.Parameter]:
    """The matrices of its blocks."""
    return {
        name: param
        for name, param in model.named_parameters()
        if name.startswith(f"{anatomy.blocks}.") and param.ndim == 2
    }


def write_model(model: Any, tokenizer: Any, folder: Path, numbers: Mapping[str, Any]) -> None:
    """A model, with its numbers, as every program of this field reads it: config, safetensors and the tokenizer's files."""
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder, state_dict=dict(numbers))
    tokenizer.save_pretrained(folder)
