"""A model without its numbers: the modules, their classes and which parameters are one and the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ctxtune.backend.anatomy import anatomy_of
from ctxtune.backend.load import hush
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def skeleton(folder: Path) -> nn.Module:
    """The model of `folder` on the meta device: takes no memory and reads no tensor.

    Raises:
        ModelError: config.json is broken, or of a family that is not supported.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    hush()
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            loader = AutoModelForCausalLM if anatomy_of(config.model_type).kind == "causal" else AutoModelForMaskedLM
            model: nn.Module = loader.from_config(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'config.json'}: {str(error).strip() or type(error).__name__}") from error
    return model


def tied_groups(model: nn.Module) -> list[list[str]]:
    """The names of each parameter; more than one where modules share it."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return list(groups.values())
