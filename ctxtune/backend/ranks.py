"""This process among those that share a run: which it is, and what all of them know of each other.

Who they are stands in the environment, as torchrun, `accelerate launch` and `ctxtune --nproc` write it: RANK of WORLD_SIZE,
LOCAL_RANK on this machine. They speak through torch.distributed: gloo between processors, NCCL between GPUs. All that is said
here is said by every process at the same place of the run, or nobody is answered.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ctxtune.errors import LostError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

_T = TypeVar("_T")
_PATIENCE = timedelta(days=7)  # that a process waits for another: who launched them notices one that is dead at once
_GONE = ("gloo", "Connection closed by peer", "Connection reset", "NCCL", "store")


@dataclass(frozen=True)
class Ranks:
    """Process `rank` of `size`, the `local`-th on its machine; `sharded` where each holds a part of the numbers that move."""

    rank: int = 0
    size: int = 1
    local: int = 0
    sharded: bool = False

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes files and speaks."""
        return self.rank == 0

    def first(self, make: Callable[[], _T]) -> _T:
        """What the leader makes of it; all others hear what that is."""
        if self.size == 1:
            return make()
        from torch.distributed import broadcast_object_list

        told: list[Any] = [make() if self.leads else None]
        broadcast_object_list(told)
        return cast("_T", told[0])

    def in_turn(self, make: Callable[[], _T]) -> _T:
        """Each makes it, the leader before all others: they find what it has left on the disk."""
        found = make() if self.leads else None
        self.meet()
        made = found if self.leads else make()
        return cast("_T", made)

    def meet(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            from torch.distributed import barrier

            barrier()

    def summed(self, numbers: Sequence[float]) -> list[float]:
        """The sums of these over all processes, in double precision; the same bits in each of them."""
        if self.size == 1:
            return list(numbers)
        import torch

        return self.total(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes; the same bits in each of them."""
        if self.size == 1:
            return tensor
        from torch.distributed import all_reduce

        total = tensor.to(self._device(), copy=True)
        all_reduce(total)
        return total.to(tensor.device)

    def gathered(self, own: Sequence[_T]) -> list[_T]:
        """What all have made of their shares, in the order of what was shared out."""
        if self.size == 1:
            return list(own)
        from torch.distributed import all_gather_object

        every: list[Any] = [None] * self.size
        all_gather_object(every, list(own))
        return [every[at % self.size][at // self.size] for at in range(sum(map(len, every)))]

    def share(self, some: Sequence[_T], rank: int | None = None) -> Sequence[_T]:
        """What of it belongs to this process, or to another: every `size`-th."""
        return some[self.rank if rank is None else rank :: self.size]

    def _device(self) -> torch.device:
        import torch
        from torch.distributed import get_backend

        return torch.device("cuda" if get_backend() == "nccl" else "cpu")


ALONE = Ranks()
_sharing: ContextVar[Ranks] = ContextVar("sharing", default=ALONE)


@contextmanager
def sharing(own: Ranks) -> Iterator[None]:
    """Meanwhile what is scored or written is shared out: every process asks the same, and each does a part of it."""
    before = _sharing.set(own)
    try:
        yield
    finally:
        _sharing.reset(before)


def now_sharing() -> Ranks:
    """The processes that what is asked now is shared out to."""
    return _sharing.get()


def launched() -> bool:
    """Whether this process is one of several, as torchrun, `accelerate launch` or `ctxtune --nproc` starts them."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def ranks() -> Ranks:
    """What the environment says.

    Raises:
        RecipeError: it is nonsense.
    """
    said = {name: os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))}
    said["LOCAL_RANK"] = os.environ.get("LOCAL_RANK", said["RANK"])
    try:
        rank, size, local = (int(value) for value in said.values())
    except ValueError:
        rank, size, local = -1, 0, 0
    if not 0 <= rank < size:
        told = " ".join(f"{name}={value}" for name, value in said.items())
        raise RecipeError(f"the environment says {told}, which names no process", "launch it with --nproc, or torchrun")
    return Ranks(rank, size, local)


def check_alone(what: str) -> None:
    """Refuse what several processes cannot do.

    Raises:
        RecipeError: there are several.
    """
    if ranks().size > 1:
        raise RecipeError(f"{what}: several processes cannot read one pipe", "save it to a file, and name it")


@contextmanager
def joined(device: str, sharded: bool = False) -> Iterator[Ranks]:
    """All processes of the run together, where there are several; each has a GPU of its own, if it is to have one.

    Raises:
        LostError: another of them is gone.
    """
    own = ranks()
    own = replace(own, sharded=sharded and own.size > 1)
    if own.size == 1:
        yield own
        return
    import torch
    from torch import distributed

    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(own.local)
    try:
        distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
        yield own
        distributed.destroy_process_group()
    except RuntimeError as error:
        if not _is_gone(error):
            raise
        raise LostError(
            "another process of this run is gone", "the same command with --resume goes on from the last checkpoint"
        ) from error


def _is_gone(error: RuntimeError) -> bool:
    from torch.distributed import DistError

    return isinstance(error, DistError) or any(word in str(error) for word in _GONE)
