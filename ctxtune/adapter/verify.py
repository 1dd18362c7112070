"""Check an adapter without torch: what it says of itself against what it holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctxtune.adapter import lora
from ctxtune.adapter.bits import CONTAINER as BITS
from ctxtune.adapter.bits import moved_of
from ctxtune.adapter.container import layer_names
from ctxtune.adapter.mask import CONTAINER as MASK
from ctxtune.adapter.mask import read_mask
from ctxtune.adapter.prefix import CONTAINER, CONTAINERS, HELD, layout_of
from ctxtune.adapter.read import check_base, check_bytes
from ctxtune.adapter.shira import CONTAINER as SHIRA
from ctxtune.adapter.shira import sparse_parts
from ctxtune.backend.mask import numel
from ctxtune.backend.tensors import mapped
from ctxtune.errors import AdapterError
from ctxtune.recipe.plural import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.tensors import Header, TensorInfo

EXPONENT = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
"""type -> (integers of its width, the bits that are all set in NaN and infinity)"""
CHUNK = 1 << 24


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `detail` says what was found."""

    name: str
    ok: bool
    detail: str


def verify(adapter: AdapterFile, fingerprint: str | None = None) -> list[Check]:
    """All checks of an adapter that `open_adapter` has opened, with its base if that is known by `fingerprint`."""
    header = adapter.header
    checks = [
        Check("structure", True, _filled(header)),
        _run("manifest", lambda: _manifest(adapter)),
        _run("configuration", lambda: _configuration(adapter)),
        _run("bytes", lambda: check_bytes(adapter)),
        _run("numbers", lambda: _numbers(adapter)),
    ]
    if fingerprint is not None:
        checks.append(_run("base", lambda: check_base(adapter, fingerprint) or "the fingerprint is that of the base"))
    return checks


def _filled(header: Header) -> str:
    count = len(header.tensors)
    return f"{counted(count, 'tensor')} {'fill' if count > 1 else 'fills'} {header.file_size:,} bytes without a gap"


def _run(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except AdapterError as error:
        return Check(name, False, str(error))


def _manifest(adapter: AdapterFile) -> str:
    manifest = adapter.manifest
    if manifest is None:
        return "none: written by another program"
    stored = adapter.numbers
    virtual = manifest.shown is not None and manifest.shown.virtual  # what made them is folded in
    if stored < manifest.trainable and not virtual:
        raise AdapterError(f"{manifest.trainable:,} numbers were trained and only {stored:,} are stored")
    told = f"format {manifest.format}, {manifest.method}, "
    if manifest.shown is not None:
        held = f"{len(manifest.shown.texts):,} demonstrations, {len(manifest.shown.tokens):,}"
        return told + (
            f"{len(manifest.shown.virtual):,} virtual tokens" if manifest.shown.virtual else f"{held} tokens"
        )
    return told + f"{manifest.trainable:,} trained numbers"


def _configuration(adapter: AdapterFile) -> str:
    if adapter.container == MASK:
        mask = read_mask(adapter.path, adapter.header)
        return f"{MASK}, {numel(mask):,} numbers of {len(mask)} parameters"
    if adapter.container == BITS:
        off = moved_of(adapter)
        return f"{BITS}, {numel(off):,} weights of {len(off)} parameters are 0"
    if adapter.container in HELD:
        layout = layout_of(adapter)
        if adapter.container != CONTAINER:
            return f"{adapter.container}, {layout.tokens:,} vectors of {layout.dim:,} numbers"
        return f"{CONTAINER}, {layout.tokens:,} tokens x {layout.layers} layers x {layout.heads} heads x {layout.dim}"
    if adapter.config is None:
        return "none beside the file"
    if adapter.container == "LORA":
        modules = {pair.module for pair in lora.parts(adapter)[0]}
    elif adapter.container == SHIRA:
        modules = set(sparse_parts(adapter)[0])
    elif adapter.container == "LN_TUNING":
        names = layer_names(adapter.header.tensors)
        strange = next((name for name in adapter.header.tensors if name not in names), None)
        if strange is not None:
            raise AdapterError(f"tensor {strange!r} is not the weight or the bias of a module")
        modules = {module for module, _ in names.values()}
    else:
        raise AdapterError(
            f"peft_type {adapter.container!r} is not one that ctxtune reads: LORA, SHIRA, LN_TUNING, {', '.join(CONTAINERS)}"
        )
    return _targets(adapter.config.get("target_modules"), modules, adapter.container)


def _targets(targets: object, modules: set[str], container: str) -> str:
    """Whether what a configuration names is what has tensors."""
    if isinstance(targets, str):
        return _pattern(targets, modules)
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise AdapterError("target_modules must be a list of names or a pattern")
    lone = sorted(module for module in modules if not any(_named(module, target) for target in targets))
    empty = [target for target in targets if not any(_named(module, target) for module in modules)]
    if lone or empty:
        raise AdapterError(
            f"target_modules lacks {lone[0]}, which has tensors" if lone else f"no tensor is for {empty[0]!r}"
        )
    return f"{container}, {counted(len(modules), 'module')}, all with their tensors"


def _pattern(pattern: str, modules: set[str]) -> str:
    if pattern == "all-linear":
        return counted(len(modules), "module")
    try:
        lone = sorted(module for module in modules if not re.fullmatch(pattern, module))
    except re.error as error:
        raise AdapterError(f"target_modules {pattern!r} is no pattern: {error}") from error
    if lone:
        raise AdapterError(f"target_modules {pattern!r} does not match {lone[0]}, which has tensors")
    return f"{pattern!r} matches {counted(len(modules), 'module')}"


def _named(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _numbers(adapter: AdapterFile) -> str:
    with mapped(adapter.path) as view:
        for name, info in adapter.header.tensors.items():
            bad = _not_finite(view, info)
            if bad:
                raise AdapterError(f"tensor {name!r} holds {bad:,} numbers that are NaN or infinite")
    total = sum(info.numel for info in adapter.header.tensors.values())
    return f"{total:,} numbers, all finite"


def _not_finite(view: memoryview, info: TensorInfo) -> int:
    if info.dtype not in EXPONENT:
        return 0
    integer, bits = EXPONENT[info.dtype]
    bad = 0
    for begin in range(info.begin, info.end, CHUNK):
        part = np.frombuffer(view[begin : min(begin + CHUNK, info.end)], dtype=integer)
        bad += int(np.count_nonzero((part & part.dtype.type(bits)) == bits))
    return bad
