"""Open an adapter of ctxtune or of PEFT: header, manifest and configuration, read without torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxtune.adapter.bits import CONTAINER as BITS
from ctxtune.adapter.bits import is_bits
from ctxtune.adapter.container import layer_names
from ctxtune.adapter.folder import CONFIG, PICKLE, TENSORS
from ctxtune.adapter.header import SHA256, read_header
from ctxtune.adapter.header import manifest as read_manifest
from ctxtune.adapter.manifest import Manifest
from ctxtune.adapter.mask import CONTAINER as MASK
from ctxtune.adapter.mask import is_mask
from ctxtune.adapter.prefix import CONTAINER, CONTAINERS, ENCODED, HELD, SUFFIX, VECTORS, is_prefix
from ctxtune.adapter.shira import CONTAINER as SHIRA
from ctxtune.backend.folder import read_json
from ctxtune.backend.tensors import mapped
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from pathlib import Path

    from ctxtune.backend.tensors import Header

METHODS = {"LN_TUNING": "freeze", "LORA": "lora", SHIRA: "shira", MASK: "mask", BITS: "mask"}
"""PEFT's type -> what ctxtune calls the method, for adapters without a manifest"""
KINDS = {"input": VECTORS, "residual": VECTORS, "ptuning": ENCODED, "suffix": SUFFIX}
"""what a prompt of some kind is written as"""
BASE = "base_model_name_or_path"
"""PEFT's key for the name of the base"""
RUN = "adapter"
"""the adapter's folder inside that of the run which made it"""


@dataclass(frozen=True)
class AdapterFile:
    """An adapter on disk whose structure has been checked.

    `kind` is the method (freeze, fewshot, lora, ...), `container` PEFT's type of the tensors' names (LN_TUNING, LORA, ...).
    """

    path: Path
    header: Header
    manifest: Manifest | None
    config: dict[str, Any] | None
    kind: str
    container: str

    @property
    def numbers(self) -> int:
        """That its tensors hold; a bit is one."""
        return sum(info.numel for info in self.header.tensors.values()) * (8 if self.container == BITS else 1)

    @property
    def classes(self) -> list[str] | None:
        """What its own classifier tells apart; None where it brings none along, or does not say."""
        return (self.manifest.classes if self.manifest else None) or None


def open_adapter(place: Path) -> AdapterFile:
    """Open an adapter folder, that of the run which made it, or the safetensors file alone if ctxtune wrote it.

    Raises:
        AdapterError: it is missing, cut short, or contradicts itself.
    """
    path = _tensor_file(place)
    header = read_header(path)
    if not header.tensors:
        raise AdapterError(f"{path} holds no tensors")
    fields = read_manifest(header)
    manifest = None if fields is None else Manifest.from_json(fields)
    config = _config(path)
    container = _container(path, header, config, manifest)
    kind = manifest.method if manifest else METHODS.get(container, container.lower())
    return AdapterFile(path, header, manifest, config, kind, container)


def _tensor_file(place: Path) -> Path:
    try:
        if place.is_dir():
            for folder in (place, place / RUN):
                if (folder / TENSORS).exists():
                    return folder / TENSORS
            if (place / PICKLE).exists():
                raise AdapterError(
                    f"{place} holds its tensors as {PICKLE}, which can run code when it is read",
                    "have it saved again as safetensors by a source that you trust",
                )
            raise AdapterError(f"{place} is no adapter: it holds no {TENSORS}", "name the adapter's folder")
        if place.exists():
            return place
    except (OSError, ValueError) as error:  # a path too long, a NUL, a loop of links, no permission
        reason = getattr(error, "strerror", None) or error
        raise AdapterError(f"adapter {str(place)[:200]!r} cannot be read: {reason}") from error
    raise AdapterError(f"no adapter at {str(place)[:200]!r}", "name an adapter folder or its safetensors file")


def _config(path: Path) -> dict[str, Any] | None:
    beside = path.with_name(CONFIG)
    if path.name != TENSORS or not beside.exists():
        return None
    config = read_json(beside, AdapterError)
    if not isinstance(config.get("peft_type"), str):
        raise AdapterError(f"{beside}: peft_type is missing")
    return config


def _container(path: Path, header: Header, config: dict[str, Any] | None, manifest: Manifest | None) -> str:
    if is_mask(header) or is_bits(header):
        return MASK if is_mask(header) else BITS
    if config is not None:
        return str(config["peft_type"])
    if len(layer_names(header.tensors)) == len(header.tensors):
        return "LN_TUNING"
    if is_prefix(header.tensors):
        return KINDS.get(str(manifest.settings.get("kind")), CONTAINER) if manifest else CONTAINER
    raise AdapterError(
        f"{path}: {CONFIG} is not beside it, and the names of its tensors do not tell what they are",
        f"keep the file in its folder, together with {CONFIG}",
    )


def manifest_of(adapter: AdapterFile) -> Manifest:
    """The manifest, without which nobody knows which base an export is for.

    Raises:
        AdapterError: there is none.
    """
    if adapter.manifest is None:
        raise AdapterError(
            f"{adapter.path} does not say which base it was made on", "export the adapter as it was written"
        )
    return adapter.manifest


def name_of_base(adapter: AdapterFile) -> str:
    """The name of the base that it was made on.

    Raises:
        AdapterError: it does not say so.
    """
    name = adapter.manifest.base.name if adapter.manifest else (adapter.config or {}).get(BASE)
    if not isinstance(name, str) or not name:
        raise AdapterError(f"{adapter.path} does not name its base", "name it with --model")
    return name


def check_known(adapter: AdapterFile) -> None:
    """Refuse a container that says nothing to ctxtune.

    Raises:
        AdapterError: it names those that do.
    """
    if adapter.container not in (*METHODS, *HELD):
        raise AdapterError(
            f"{adapter.path}: adapters of type {adapter.container} are not supported",
            f"types that work: {', '.join((*METHODS, *CONTAINERS))}",
        )


def check_bytes(adapter: AdapterFile) -> str:
    """Compare the tensors' bytes with the hash that the header gives for them: 100 MB take 0.1 s, some 0.3 s where no
    instruction of the processor helps.

    Raises:
        AdapterError: they are not what was written.
    """
    told = adapter.header.metadata.get(SHA256)
    if told is None:
        by = "before there were any" if adapter.manifest else "by another program"
        return f"no hash: written {by}"
    with mapped(adapter.path) as view:
        found = hashlib.sha256(view[adapter.header.data_start :]).hexdigest()
    if found != told:
        raise AdapterError(
            f"{adapter.path} is damaged: the sha256 of its tensors is {found[:12]}, and was {told[:12]} when it was written",
            "fetch or train it again",
        )
    return f"the sha256 of the tensors is {found[:12]}, as it was written"


def check_base(adapter: AdapterFile, fingerprint: str, force: bool = False) -> str | None:
    """Compare the base the adapter was made on with the one at hand; a text is something the user should be told.

    Raises:
        AdapterError: it is another base, and `force` does not insist on it.
    """
    if adapter.manifest is None:
        named = (adapter.config or {}).get(BASE)
        said = f"names its base {named!r} without a fingerprint" if named else "does not say which base it was made on"
        return f"the adapter {said}: that this is the right one is not checked"
    made_on = adapter.manifest.base
    if made_on.fingerprint == fingerprint:
        return None
    problem = (
        f"{adapter.path} was made on {made_on.name} ({_short(made_on.fingerprint)}), "
        f"and this base is {_short(fingerprint)}"
    )
    if not force:
        raise AdapterError(problem, f"name the base {made_on.name}, or insist with --force")
    return problem


def _short(fingerprint: str) -> str:
    return fingerprint.removeprefix("sha256:")[:12]
