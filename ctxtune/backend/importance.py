"""How large the inputs of a model's linear layers are, column by column: a text is read while the model is put together.

Rounding a weight costs what is multiplied with the error: columns in which inputs are large count for more (levels.py). The
embedded text goes through one block after the other, each while it is in memory in float32, and nothing of the model is
there twice. What a block is told beside the states, positions and masks, the model's own forward says once, with blocks that
hand on what they get.

Shapes: B texts, T tokens, D width; K inputs of a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ctxtune.backend.trunk import said_by_block

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctxtune.backend.anatomy import Anatomy

_TEXTS, _TOKENS = 4, 64


class _Read(Exception):
    """Leaves the model's forward at its last block."""


class _Recorder(nn.Module):
    """In the place of a block: keeps what it is called with, and hands the states on."""

    def __init__(self, block: nn.Module, tuples: bool, last: bool) -> None:
        super().__init__()
        object.__setattr__(self, "block", block)
        self.tuples, self.last = tuples, last
        self.call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __getattr__(self, name: str) -> Any:
        return said_by_block(self, name)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.call = (hidden, *args), kwargs
        if self.last:
            raise _Read
        return (hidden,) if self.tuples else hidden


@dataclass
class Reading:
    """A text (B, T) on its way through the blocks of a model: what each is called with, and the states (B, T, D) so far."""

    model: nn.Module
    blocks: nn.ModuleList
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    text: Tensor
    states: Tensor

    def through(self, index: int, names: Iterable[str]) -> dict[str, Tensor]:
        """The mean square (K,) of each input of the named linear layers of a block, which is in float32."""
        block, found = self.blocks[index], {}  # type: nn.Module, dict[str, Tensor]
        hooks = [self.model.get_submodule(name).register_forward_pre_hook(_keep(found, name)) for name in names]
        (_, *args), kwargs = self.calls[index]
        with torch.no_grad():
            output = block(self.states, *args, **kwargs)
        for hook in hooks:
            hook.remove()
        self.states = output[0] if isinstance(output, tuple | list) else output
        return found


def _keep(found: dict[str, Tensor], name: str) -> Any:
    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[name] = inputs[0].flatten(0, -2).square().mean(0)

    return keep


def begin(model: nn.Module, anatomy: Anatomy) -> Reading:
    """Read a text up to the first block: everything below the blocks is in its place, in the type of the run."""
    blocks = model.get_submodule(anatomy.blocks)
    assert isinstance(blocks, nn.ModuleList)
    own = list(blocks)
    recorders = [_Recorder(block, anatomy.tuples, block is own[-1]) for block in own]
    options = {"use_cache": False} if anatomy.kind == "causal" else {}
    text = _text(model)
    model.eval()  # as it is run: what chance drops out would be another model's weights
    try:
        for index, recorder in enumerate(recorders):
            blocks[index] = recorder
        with torch.no_grad():
            model.get_submodule(anatomy.backbone)(input_ids=text, **options)
    except _Read:
        pass
    finally:
        for index, block in enumerate(own):
            blocks[index] = block
    calls = [_wide(recorder.call) for recorder in recorders]
    return Reading(model, blocks, calls, text, calls[0][0][0])


def _text(model: nn.Module) -> Tensor:
    """Words of the model's own vocabulary (B, T), drawn: what is large in the inputs is so whatever is read."""
    config: Any = model.config
    told = config.get_text_config()
    count = min(_TOKENS, getattr(told, "max_position_embeddings", None) or _TOKENS)
    chance = torch.Generator().manual_seed(0)
    return torch.randint(0, told.vocab_size, (_TEXTS, max(1, count - 8)), generator=chance)


def _wide(value: Any) -> Any:
    """The same with every floating tensor in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(map(_wide, value))
    return {name: _wide(inner) for name, inner in value.items()} if isinstance(value, dict) else value
