"""What rounding into the stored type costs: KL(attached || merged) on the built-in probe, in nats a token or text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxtune.adapter.attach import attach
from ctxtune.backend.load import load_base
from ctxtune.backend.trunk import Trunk
from ctxtune.commands.judge import builtin_probe
from ctxtune.evals.forgetting import drift, read_base

if TYPE_CHECKING:
    from pathlib import Path

    from ctxtune.adapter.read import AdapterFile


def measured_kl(base: Path, adapter: AdapterFile, merged: Path) -> float:
    """How far the merged model is from the base with the adapter attached; one of the two is in memory at a time."""
    attached = load_base(base, classes=adapter.classes, dtype="float32")
    attach(attached.model, adapter)
    with Trunk(attached) as trunk:
        said = read_base(builtin_probe(trunk), keep_head=True)
    del attached, trunk
    with Trunk(load_base(merged, dtype="float32")) as trunk:
        return drift(builtin_probe(trunk), said).kl
