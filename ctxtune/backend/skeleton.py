"""A model without its numbers: the modules, their classes and which parameters are one and the same."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.initialization import no_init_weights

from ctxtune.backend.config import read_config
from ctxtune.backend.folder import weight_files
from ctxtune.backend.library import one_line
from ctxtune.backend.load import model_class
from ctxtune.backend.tensors import read_header
from ctxtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from ctxtune.backend.anatomy import Anatomy, Kind


class OtherShape(ModelError):
    """The files hold a parameter in another shape than the config promises."""


def skeleton(folder: Path, classes: Sequence[str] | None = None, buffers: bool = False) -> tuple[nn.Module, Anatomy]:
    """The model of `folder` on the meta device, which takes no memory and reads no tensor, and its anatomy.

    An encoder without a head gets one over `classes`. With `buffers`, what a model computes of its config alone (the
    frequencies of its positions) is there.

    Raises:
        ModelError: config.json is broken, or of a family that is not supported.
    """
    config, anatomy = read_config(folder, classes)
    model = build(config, anatomy.kind, folder, buffers)
    return model, anatomy.fitted(model)


def build(config: Any, kind: Kind, folder: Path, buffers: bool = False, most_parameters: float = math.inf) -> nn.Module:
    """The modules that transformers makes of the config of `folder`, without numbers.

    Raises:
        ModelError: the config is wrong, or asks for more parameters than allowed.
    """
    try:
        with (
            no_init_weights(),
            _parameters_on_meta(most_parameters),
            nullcontext() if buffers else torch.device("meta"),
        ):
            model: Any = model_class(kind).from_config(config, dtype=torch.float32)
        model.tie_weights()  # a part of what is left out: the random numbers that no tensor here would hold
    except Exception as error:  # a model is built by computing with its config: any error can come of a wrong one
        raise ModelError(f"{folder / 'config.json'}: {one_line(error)}") from error
    made: nn.Module = model
    return made


@contextmanager
def _parameters_on_meta(most: float) -> Iterator[None]:
    """Parameters lose their memory as soon as a module has them, before anything is written there; buffers keep theirs."""
    register, count = nn.Module.register_parameter, 0

    def forget(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        nonlocal count
        count += param is not None
        if count > most:
            raise ValueError(f"it asks for more than {most:,} parameters, and the weights hold far fewer tensors")
        if param is not None and not param.is_meta:  # one that is tied is given to the second module as it is
            param = nn.Parameter(param.to("meta"))
        register(module, name, param)

    nn.Module.register_parameter = forget  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def check_headers(model: nn.Module, anatomy: Anatomy, folder: Path) -> None:
    """Compare the headers of the weights with what the config promises; a classifier may be missing, it is made then.

    Raises:
        OtherShape: a parameter has another shape in the files.
        ModelError: it is missing from them.
    """
    stored = {name: info.shape for path in weight_files(folder) for name, info in read_header(path).tensors.items()}
    homes = stored_names(model, stored)
    for names in tied_groups(model):
        found = next((homes[name] for name in names if name in homes), None)
        if found is None and anatomy.kind == "classifier" and anatomy.in_head(names[0]):
            continue
        if found is None:
            raise ModelError(f"{folder}: the weights lack {names[0]}, which config.json promises")
        shape = tuple(model.get_parameter(names[0]).shape)
        if stored[found] != shape:
            raise OtherShape(f"{folder}: {found} has shape {stored[found]}, config.json promises {shape}")


def stored_names(model: nn.Module, stored: Collection[str]) -> dict[str, str]:
    """Name of a parameter -> its name in the files, for those that are there.

    Files may leave out the name of the backbone, or have the names of an older transformers, which it reads as its own.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    direct = {name: (name if name in stored else name.removeprefix(prefix)) for name in names}
    found = {name: key for name, key in direct.items() if key in stored}
    unclaimed = set(stored).difference(found.values())
    if unclaimed and len(found) < len(names):  # transformers takes a quarter of a second to say what it renames
        renamed = {new.removeprefix(prefix): old for old, new in _renamed(model, unclaimed).items()}
        later = {name: renamed.get(name.removeprefix(prefix)) for name in names if name not in found}
        found |= {name: old for name, old in later.items() if old is not None}
    return found


def converted(model: nn.Module) -> str | None:
    """A pattern of tensors that transformers changes as it reads them, beyond their names; None where there is none."""
    _, others = _conversions(model)
    return next((pattern for change in others for pattern in change.source_patterns), None)


def _conversions(model: Any) -> tuple[list[Any], list[Any]]:
    """What transformers does to the tensors of files: those that are only renamed, and the others."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    every = get_model_conversion_mapping(model)
    renamings = [one for one in every if isinstance(one, WeightRenaming)]
    return renamings, [one for one in every if one not in renamings]


def _renamed(model: Any, stored: Iterable[str]) -> dict[str, str]:
    """Name in the files -> name that transformers gives it, for those tensors that it only renames."""
    changes, _ = _conversions(model)
    names = {}
    for old in sorted(stored):
        new = old
        for change in changes:
            new, _ = change.rename_source_key(new)
        if new != old:
            names[old] = new
    return names


def tied_groups(model: nn.Module) -> list[list[str]]:
    """The names of each parameter; more than one where modules share it."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return list(groups.values())
