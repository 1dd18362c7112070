"""The numbers of a base as its files store them, found by the names that parameters have in its model.

Nothing is read before it is asked for. An encoder without a head has a classifier here, all tensors under their names in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import safe_open

from ctxtune.adapter.write import DTYPES
from ctxtune.backend.classifier import fresh_head
from ctxtune.backend.folder import weight_files
from ctxtune.backend.skeleton import skeleton, stored_names, tied_groups
from ctxtune.backend.tensors import TensorInfo, read_header
from ctxtune.errors import AdapterError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from torch import nn

    from ctxtune.backend.anatomy import Anatomy

FLOATING = {"F64", "F32", "F16", "BF16"}
TORCH = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Place:
    """One tensor of the base: its file, its name and its place there; or the value of one that the files do not hold."""

    file: Path
    name: str
    info: TensorInfo
    value: torch.Tensor | None = None

    def read(self) -> torch.Tensor:
        """Its numbers, in the type they are stored in."""
        if self.value is not None:
            return self.value
        with safe_open(str(self.file), framework="pt") as file:
            found: torch.Tensor = file.get_tensor(self.name)
        return found


@dataclass(frozen=True)
class Weights:
    """A base: its model without numbers, the tensors by their names in the files, and by the names of parameters."""

    folder: Path
    model: nn.Module
    anatomy: Anatomy
    places: dict[str, Place]
    homes: dict[str, str]
    """name of a parameter -> its name in the files, for those that are there"""
    groups: list[list[str]]
    """the names of each parameter; more than one where modules share it"""

    def source(self, names: Sequence[str]) -> str:
        """The stored tensor that a parameter of these names is read from.

        Raises:
            ModelError: there is none.
        """
        found = next((self.homes[name] for name in names if name in self.homes), None)
        if found is None:
            raise ModelError(f"the base does not store {names[0]}", "name a folder that this ctxtune can load")
        return found

    def names(self, name: str) -> list[str]:
        """All names of a parameter.

        Raises:
            AdapterError: the model does not have it.
        """
        found = next((names for names in self.groups if name in names), None)
        if found is None:
            raise AdapterError(
                f"the base {self.folder} has no parameter {name}", "the adapter was made for another base"
            )
        return found

    def module(self, name: str) -> nn.Module:
        """The module that has a parameter of this name."""
        return self.model.get_submodule(name.rpartition(".")[0])

    def is_made(self, name: str) -> bool:
        """Whether no file holds a parameter: it is that of a new classifier, drawn as the base is loaded."""
        return self._place(name).value is not None

    def check(self, name: str, size: Sequence[int]) -> None:
        """Refuse a parameter that the model does not have, or has in another shape.

        Raises:
            AdapterError: it says which.
        """
        found = self._place(name).info.shape
        if found != tuple(size):
            raise AdapterError(
                f"the base {self.folder} has shape {list(found)} at {name}, the adapter {list(size)}",
                "the adapter was made for another base",
            )

    def read(self, name: str, size: Sequence[int]) -> torch.Tensor:
        """The numbers of a parameter of that shape, in the type they are stored in.

        Raises:
            AdapterError: the model has none of this name, or of another shape.
        """
        self.check(name, size)
        return self._place(name).read()

    def _place(self, name: str) -> Place:
        return self.places[self.source(self.names(name))]


def open_weights(folder: Path, classes: Sequence[str] | None = None) -> Weights:
    """The base in `folder`; an encoder without a head gets one over `classes`.

    Raises:
        ModelError: it cannot be read, or is of a family that is not supported.
    """
    model, anatomy = skeleton(folder, classes)
    places = {
        name: Place(path, name, info)
        for path in weight_files(folder)
        for name, info in read_header(path).tensors.items()
    }
    if anatomy.kind == "classifier":
        places = _with_head(places, model, anatomy)
    return Weights(folder, model, anatomy, places, stored_names(model, places), tied_groups(model))


def _with_head(places: dict[str, Place], model: nn.Module, anatomy: Anatomy) -> dict[str, Place]:
    """The tensors by the names they have in the whole model, and those of its classifier that the files do not hold.

    A mixture of names with and without that of the backbone would not be read by every transformers.
    """
    full = {key: name for name, key in stored_names(model, places).items()}
    prefix = f"{model.base_model_prefix}."
    found = {full.get(key, key if key.startswith(prefix) else prefix + key): place for key, place in places.items()}
    (first, *_) = found.values()
    kind = next((place.info.dtype for place in found.values() if place.info.dtype in FLOATING), "F32")
    for name, value in fresh_head(model, anatomy, found).items():
        info = TensorInfo(kind, tuple(value.shape), 0, 0)
        found[name] = Place(first.file, name, info, value.to(TORCH[kind]))
    return found
