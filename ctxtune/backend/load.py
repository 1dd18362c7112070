"""A folder on disk becomes a model and a tokenizer, in the type of the device, frozen, without touching the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ctxtune.backend.bits import layout
from ctxtune.backend.config import read_config
from ctxtune.backend.context import context_length
from ctxtune.backend.device import Device, choose_device
from ctxtune.backend.library import one_line
from ctxtune.backend.linear import onednn_is_faster, quicken
from ctxtune.backend.precision import narrow
from ctxtune.backend.tokenizer import load_tokenizer
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from torch import nn

    from ctxtune.backend.anatomy import Anatomy, Kind


@dataclass(frozen=True)
class Base:
    """A loaded base model: everything frozen, in evaluation mode.

    `attention` is how transformers computes it, `quant` how its frozen linear layers are stored, `parameters` how many
    numbers it has. Of a family that was found by structure, `difference` and `going_on` say how exact it is (exact.py).
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
    difference: float | None = None
    going_on: float | None = None

    @property
    def structure(self) -> str | None:
        """Of a family that is not in the table: how its parts were found, and how exact they are."""
        if self.difference is None:
            return None
        return (
            f"{self.anatomy.in_words()}; run in parts, it says what its own forward pass says "
            f"(largest difference {self.difference:.0e} of the largest logit)"
        )

    def computes(self) -> dict[str, str]:
        """All that determines the numbers it says, besides its files."""
        kernel = "onednn" if onednn_is_faster() and self.device.name == "cpu" else "torch"
        kind = self.device.name.split(":")[0]
        return {
            "dtype": self.device.type_name, "quant": layout(self.quant), "device": kind, "kernel": kernel,
            "torch": version("torch"),
        }  # fmt: skip

    @property
    def remarks(self) -> list[str]:
        """What a user should know of how it was loaded."""
        said = [f"device: {self.device.reason}", self.device.warning, self.structure]
        return [one for one in said if one is not None]


def load_base(
    folder: Path,
    device: str = "auto",
    quant: str = "none",
    moving: Collection[str] = (),
    classes: Sequence[str] | None = None,
    dtype: str = "auto",
) -> Base:
    """Load the model of `folder` on the device that fits, in its type, frozen linear layers quantised where that is asked for.

    Modules in which one of the parameters `moving` lies stay float32 (precision.py). An encoder without a head gets one over
    `classes`.

    Raises:
        ModelError: the folder is broken, or its family is neither in the anatomy table nor told by its structure.
    """
    where = choose_device(device, dtype)
    model, anatomy, parameters = _assembled(folder, quant, moving, classes, where)
    if where.narrow:
        narrow(model, where.dtype, moving)
    if quant != "none":
        from ctxtune.backend.quantise import describe

        where = replace(where, reason=f"{where.reason}; {describe(model, anatomy)}")
    model.requires_grad_(False)
    model.eval()
    model.to(where.name)
    if where.name == "cpu" and not where.narrow:
        quicken(model)
    tokenizer = load_tokenizer(folder)
    config: Any = model.config
    told = config.get_text_config()
    base = Base(
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
    return _checked(base) if anatomy.derived else base


def _checked(base: Base) -> Base:
    from ctxtune.backend.exact import check_going_on, check_structure

    difference = check_structure(base)
    return replace(
        base, difference=difference, going_on=check_going_on(base) if base.anatomy.kind == "causal" else None
    )


def _assembled(
    folder: Path, quant: str, moving: Collection[str], classes: Sequence[str] | None, where: Device
) -> tuple[nn.Module, Anatomy, int]:
    """The model, its anatomy and how many numbers it has, tensor by tensor; transformers itself is slower to begin.

    Where files name their tensors otherwise than the model does, only transformers knows what they mean.
    """
    from ctxtune.backend.assemble import assemble
    from ctxtune.backend.skeleton import OtherShape

    try:
        return assemble(folder, quant, moving, classes, where.dtype)
    except MemoryError:
        raise
    except Exception as error:
        if quant != "none" and isinstance(error, ModelError):
            raise
        # What has another shape transformers would make anew at the config's size, however large, before it says so.
        if quant != "none" or isinstance(error, OtherShape):
            raise ModelError(f"{folder}: the model cannot be loaded: {one_line(error)}") from error
        config, anatomy = read_config(folder, classes)
        model = _float_model(folder, config, anatomy)
        return model, anatomy.fitted(model), sum(parameter.numel() for parameter in model.parameters())


def _float_model(folder: Path, config: Any, anatomy: Anatomy) -> nn.Module:
    """The model as transformers loads it."""
    import torch

    from ctxtune.backend.classifier import fresh_head

    try:
        model, info = model_class(anatomy.kind).from_pretrained(
            folder,
            config=config,
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
    missing = set(info["missing_keys"])
    fresh = fresh_head(model, anatomy, {name for name, _ in model.named_parameters()} - missing)
    if names := sorted(missing.difference(fresh)):
        headless = anatomy.kind == "masked" and all(map(anatomy.in_head, names))
        raise ModelError(
            f"{folder}: {len(names)} tensors are missing, the first is {names[0]}",
            "the files hold an encoder without the head that fills a mask: it has no answers to score"
            if headless
            else None,
        )
    model.load_state_dict(fresh, strict=False)
    loaded: nn.Module = model
    return loaded


def model_class(kind: Kind) -> Any:
    """What transformers calls a model of this kind."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

    kinds = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}
    return kinds.get(kind, AutoModelForSequenceClassification)
