"""A model whose numbers are shared out: each process holds a part of every matrix (torch's FSDP2, Zhao et al. 2023).

Before a layer works its numbers are gathered, behind it they are let go; gradients and moments stay in parts. What runs inside
the root that `shard` returns finds the numbers whole.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.device import Device

_T = TypeVar("_T")


class _Root(nn.Module):
    """The whole model, around any work with it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], _T]) -> _T:
        return work()


def shard(model: nn.Module, anatomy: Anatomy, device: Device) -> nn.Module:
    """Share the numbers of a model out to all processes, layer by layer; returns the root."""
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.name, (get_world_size(),))
    blocks: Any = model.get_submodule(anatomy.blocks)
    for block in blocks:
        fully_shard(block, mesh=mesh)
    root: Any = fully_shard(_Root(model), mesh=mesh)
    whole_model: nn.Module = root
    return whole_model


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, all numbers of a model that was shared out are whole in every process."""
    some: list[Any] = [module for module in model.modules() if hasattr(module, "unshard")]
    for module in some:
        module.unshard()
    try:
        yield
    finally:
        for module in some:
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each process may hold a part; every process asks for it, or none."""
    full: Any = getattr(tensor, "full_tensor", None)
    found: Tensor = full() if full is not None else tensor
    return found


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds of `like`."""
    if not hasattr(like, "full_tensor"):
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    part: Any = like
    return distribute_tensor(tensor.to(like.device), part.device_mesh, part.placements, src_data_rank=None)
