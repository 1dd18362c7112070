"""A folder on disk becomes a model and a tokenizer, in float32, frozen, without touching the network."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctxtune.backend.anatomy import Anatomy, anatomy_of
from ctxtune.backend.context import context_length
from ctxtune.backend.device import Device, choose_device
from ctxtune.backend.folder import read_json, weight_files
from ctxtune.backend.linear import quicken
from ctxtune.backend.tensors import read_header
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True)
class Base:
    """A loaded base model: everything frozen, in evaluation mode.

    `attention` is how transformers computes it, `quant` how its frozen linear layers are stored, `parameters` how many
    numbers it has.
    """

    model: nn.Module
    tokenizer: Any
    anatomy: Anatomy
    device: Device
    folder: Path
    max_length: int
    width: int
    vocabulary: int
    attention: str
    quant: str
    parameters: int


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
    except Exception as error:  # `tokenizers` raises plain Exceptions, its wrappers whatever a wrong value leads to
        raise ModelError(f"{folder}: the tokenizer cannot be read: {one_line(error)}") from error
    # What is too long is decided by `data.on_long`; the tokenizer's own warning would only stand beside it.
    tokenizer.model_max_length = sys.maxsize
    return tokenizer


def load_base(folder: Path, device: str = "auto", quant: str = "none", moving: Collection[str] = ()) -> Base:
    """Load the model of `folder` on the device that fits: in float32, frozen linear layers quantised where that is asked for.

    Modules in which one of the parameters `moving` lies stay float.

    Raises:
        ModelError: the folder is broken, or its family is not in the anatomy table.
    """
    where = choose_device(device)
    model, anatomy, parameters = _assembled(folder, quant, moving)
    if quant != "none":
        from ctxtune.backend.quantise import describe

        where = replace(where, reason=f"{where.reason}; {describe(model, anatomy)}")
    model.requires_grad_(False)
    model.eval()
    model.to(where.name)
    if where.name == "cpu":
        quicken(model)
    tokenizer = load_tokenizer(folder)
    config: Any = model.config
    told = config.get_text_config()
    return Base(
        model=model,
        tokenizer=tokenizer,
        anatomy=anatomy,
        device=where,
        folder=folder,
        max_length=context_length(told.to_dict()),
        width=told.hidden_size,
        vocabulary=told.vocab_size,
        attention=told._attn_implementation,
        quant=quant,
        parameters=parameters,
    )


def _assembled(folder: Path, quant: str, moving: Collection[str]) -> tuple[nn.Module, Anatomy, int]:
    """The model, its anatomy and how many numbers it has, tensor by tensor; transformers itself is slower to begin.

    Where files name their tensors otherwise than the model does, only transformers knows what they mean.
    """
    from ctxtune.backend.assemble import assemble
    from ctxtune.backend.skeleton import OtherShape

    try:
        return assemble(folder, quant, moving)
    except MemoryError:
        raise
    except Exception as error:
        if quant != "none" and isinstance(error, ModelError):
            raise
        # What has another shape transformers would make anew at the config's size, however large, before it says so.
        if quant != "none" or isinstance(error, OtherShape):
            raise ModelError(f"{folder}: the model cannot be loaded: {one_line(error)}") from error
        _, anatomy = read_config(folder)
        model = _float_model(folder, anatomy)
        return model, anatomy.fitted(model), sum(parameter.numel() for parameter in model.parameters())


def _float_model(folder: Path, anatomy: Anatomy) -> nn.Module:
    """The model as transformers loads it."""
    import torch

    try:
        model, info = model_class(anatomy).from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # the same: the model is built from its config
        raise ModelError(f"{folder}: the model cannot be loaded: {one_line(error)}") from error
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        headless = anatomy.kind == "masked" and all(name.startswith(f"{anatomy.head}.") for name in names)
        raise ModelError(
            f"{folder}: {len(names)} tensors are missing, the first is {names[0]}",
            "the files hold an encoder without the head that fills a mask: it has no answers to score"
            if headless
            else None,
        )
    loaded: nn.Module = model
    return loaded


def read_config(folder: Path) -> tuple[Any, Anatomy]:
    """The configuration of a model folder, and the anatomy of its family.

    Raises:
        ModelError: config.json is broken, or of a family that is not supported.
    """
    from transformers import AutoConfig

    hush()
    _check_depth(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers checks a config by computing with it: any error can come of a wrong one
        raise ModelError(f"{folder}/config.json: {one_line(error)}") from error
    row = anatomy_of(config.model_type)
    text = config.get_text_config()
    if row.kind == "causal" and getattr(text, "use_bidirectional_attention", None):
        raise ModelError(
            f"{folder}/config.json: use_bidirectional_attention makes this {row.family} an encoder without a task",
            "name a model that predicts tokens",
        )
    return config, row


def _check_depth(folder: Path) -> None:
    """Refuse a config of no layer, or of more than there are tensors: a billion would be built before anything is compared."""
    config = read_json(folder / "config.json")
    tensors = sum(len(read_header(path).tensors) for path in weight_files(folder))
    for key in ("num_hidden_layers", "n_layer", "num_layers"):
        layers = config.get(key)
        if isinstance(layers, int | float) and not 1 <= layers <= tensors:
            raise ModelError(
                f"{folder / 'config.json'}: {key} is {layers:,}, and the weights hold {tensors:,} tensors",
                "the files belong to different models, or one of them is broken",
            )


def model_class(anatomy: Anatomy) -> Any:
    """What transformers calls a model of this kind."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForCausalLM if anatomy.kind == "causal" else AutoModelForMaskedLM


def one_line(error: BaseException) -> str:
    """The first sentence of what a library says, without the advice that follows it; a heading takes the next line along."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
