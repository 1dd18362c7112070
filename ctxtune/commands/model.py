"""Base models: list those that can be pulled, show one of them or a folder. Both read headers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxtune.backend.catalogue import CATALOGUE
from ctxtune.backend.describe import Described, describe
from ctxtune.backend.folder import folder_bytes, is_complete, locate
from ctxtune.backend.home import models

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class ListedModel:
    """One row of `model list`; `folder` and `num_bytes` are None until the model is pulled."""

    name: str
    family: str
    parameters: int
    licence: str
    source: str
    folder: Path | None
    num_bytes: int | None


@dataclass(frozen=True)
class ShownModel(Described):
    """What the headers of a model tell, and its fingerprint if that is known already."""

    fingerprint: str | None


def list_models() -> list[ListedModel]:
    """Every model of the catalogue, and which of them are on this machine."""
    rows = []
    for entry in CATALOGUE.values():
        folder = models(make=False) / entry.name
        there = is_complete(folder)
        rows.append(
            ListedModel(
                name=entry.name,
                family=entry.family,
                parameters=entry.parameters,
                licence=entry.licence,
                source=" + ".join(entry.origins),
                folder=folder if there else None,
                num_bytes=folder_bytes(folder) if there else None,
            )
        )
    return rows


def show(model: str) -> ShownModel:
    """The facts of one model, from its headers alone."""
    from ctxtune.backend.fingerprint import cached_fingerprint

    place = locate(model)
    described = describe(place)
    known = cached_fingerprint(place) if place.is_dir() and described.supported.startswith("yes") else None
    return ShownModel(**vars(described), fingerprint=known)
