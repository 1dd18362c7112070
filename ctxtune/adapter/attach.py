"""Put an adapter's values in place of a model's, and the model's own back.

Parameters are exchanged, never written into: what detaching puts back is the very tensor that was there, bit for bit.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ctxtune.adapter.change import by_parameter, changes, toward
from ctxtune.adapter.keys import held_suffix
from ctxtune.adapter.mask import CONTAINER as MASK
from ctxtune.adapter.moved import held_delta
from ctxtune.adapter.prefix import SUFFIX
from ctxtune.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ctxtune.adapter.change import Change
    from ctxtune.adapter.read import AdapterFile
    from ctxtune.backend.delta import Delta
    from ctxtune.backend.spoken import Spoken


@dataclass
class Attached:
    """An adapter on a model: the parameters that are aside now, each with its place, and whether the adapter's are in it.

    Of a suffix no parameter is exchanged: the model is told what its virtual tokens stand for. Of a mask the few numbers are
    written into the parameters, and stand beside quantised ones.
    """

    aside: list[tuple[nn.Module, str, nn.Parameter]]
    on: bool = False
    spoken: Spoken | None = None
    delta: Delta | None = None

    def attach(self) -> None:
        """Put the adapter's parameters in; a second call does nothing."""
        if self.spoken is not None:
            self.spoken.on()
        if self.delta is not None:
            self.delta.on()
        if not self.on:
            self._exchange(range(len(self.aside)))

    def detach(self) -> None:
        """Give the model its own parameters back; a second call does nothing."""
        if self.spoken is not None:
            self.spoken.off()
        if self.delta is not None:
            self.delta.off()
        if self.on:
            self._exchange(reversed(range(len(self.aside))))  # of a place named twice the first keeps the model's own

    def _exchange(self, order: Iterable[int]) -> None:
        for index in order:
            module, name, parameter = self.aside[index]
            self.aside[index] = module, name, module.get_parameter(name)
            setattr(module, name, parameter)
        self.on = not self.on


def attach(model: nn.Module, adapter: AdapterFile, alpha: float = 1.0) -> Attached:
    """Let `model` compute with the adapter's values, or with W + alpha (W' - W), until the result is detached.

    A parameter that modules share stays shared as long as the adapter gives them the same value; otherwise they part,
    as they do in PEFT. Nothing is exchanged before everything is known to fit.

    Raises:
        AdapterError: the adapter names a module that is not in the model, or one of another shape.
    """
    if adapter.container == MASK:
        attached = Attached([], delta=held_delta(model, adapter, alpha))
        attached.attach()
        return attached
    new: list[tuple[nn.Module, str, nn.Parameter]] = []
    shared: dict[int, list[nn.Parameter]] = {}
    for group in by_parameter(changes(adapter)):
        module, old = _place(model, adapter, group[0])
        value: torch.Tensor = old.detach()
        for change in group:
            value = change.update(value, type(module).__name__, old.dtype).to(old.device)
        value = toward(old.detach(), value, alpha)
        twin = next((twin for twin in shared.get(id(old), []) if torch.equal(twin, value)), None)
        if twin is None:
            twin = nn.Parameter(value, requires_grad=False)
            shared.setdefault(id(old), []).append(twin)
        new.append((module, group[0].parameter, twin))
    attached = Attached(new, spoken=held_suffix(model, adapter) if adapter.container == SUFFIX else None)
    attached.attach()
    return attached


@contextmanager
def attached(model: nn.Module, adapter: AdapterFile, alpha: float = 1.0) -> Iterator[None]:
    """The model computes with the adapter, or with a share of it, inside the block."""
    taken = attach(model, adapter, alpha)
    try:
        yield
    finally:
        taken.detach()


def _place(model: nn.Module, adapter: AdapterFile, change: Change) -> tuple[nn.Module, nn.Parameter]:
    from ctxtune.backend.words import reads_half

    try:
        module = model.get_submodule(change.module)
        old = module.get_parameter(change.parameter)
    except AttributeError as error:
        raise AdapterError(
            f"{adapter.path}: tensor {change.tensor!r} is for {change.name}, which the model does not have",
            "the adapter was made for another base",
        ) from error
    if not old.is_floating_point() or reads_half(module):
        kind = "kept in 16 bits" if old.is_floating_point() else "quantised"
        raise AdapterError(
            f"{adapter.path}: tensor {change.tensor!r} is for {change.name}, which is {kind} here",
            "load the base with --quant none",
        )
    return module, old
