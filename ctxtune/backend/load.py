"""A folder on disk becomes a model and a tokenizer, in float32, frozen, without touching the network."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.backend.anatomy import Anatomy, anatomy_of
from ctxtune.backend.device import Device, choose_device
from ctxtune.backend.linear import quicken
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True)
class Base:
    """A loaded base model: everything frozen, in evaluation mode. `attention` is how transformers computes it."""

    model: nn.Module
    tokenizer: Any
    anatomy: Anatomy
    device: Device
    folder: Path
    max_length: int
    width: int
    attention: str


def hush() -> None:
    """No progress bars and no advice from transformers: what a user should know, ctxtune says."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder (a fast one: offsets are needed for cloze)."""
    from transformers import AutoTokenizer

    try:
        hush()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder}: the tokenizer cannot be read: {_first_line(error)}") from error
    # What is too long is decided by `data.on_long`; the tokenizer's own warning would only stand beside it.
    tokenizer.model_max_length = sys.maxsize
    return tokenizer


def load_base(folder: Path, device: str = "auto") -> Base:
    """Load the model of `folder` in float32 on the device that fits.

    Raises:
        ModelError: the folder is broken, or its family is not in the anatomy table.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    hush()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}/config.json: {_first_line(error)}") from error
    anatomy = anatomy_of(config.model_type)
    where = choose_device(device)
    loader = AutoModelForCausalLM if anatomy.kind == "causal" else AutoModelForMaskedLM
    try:
        model, info = loader.from_pretrained(
            folder,
            dtype=where.dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{folder}: the model cannot be loaded: {_first_line(error)}") from error
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise ModelError(f"{folder}: {len(names)} tensors are missing, the first is {names[0]}")
    model.requires_grad_(False)
    model.eval()
    model.to(where.name)
    if where.name == "cpu":
        quicken(model)
    tokenizer = load_tokenizer(folder)
    context, attention = context_length(config.to_dict()), model.config._attn_implementation
    return Base(model, tokenizer, anatomy, where, folder, context, config.hidden_size, attention)


def context_length(config: Mapping[str, Any]) -> int:
    """The tokens that a model of this config can read."""
    for key in ("max_position_embeddings", "n_positions"):
        value = config.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return 2048


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
