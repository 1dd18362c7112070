"""Several processes for one command: torch's elastic agent, which torchrun is made of, starts them and notices one that dies.

Each process runs the same command line again, and finds in its environment which of them it is (backend/ranks.py).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from ctxtune.errors import CtxtuneError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PORT = 29_500  # torchrun's


def launch(words: Sequence[str], nproc: int, nnodes: int, rdzv: str | None) -> int:
    """Run `ctxtune words` in `nproc` processes of this machine, of `nnodes` that meet at `rdzv`; returns the exit code.

    Raises:
        RecipeError: several machines, and nobody says where they meet.
        CtxtuneError: one of the processes was killed.
    """
    if nnodes > 1 and rdzv is None:
        raise RecipeError(
            f"--nnodes {nnodes}: nothing says where they meet", "the same on all of them: --rdzv HOST:PORT"
        )
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # the agent tells of each step that it takes
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // nproc)))
    where = _with_port(rdzv) if rdzv is not None else "localhost:0"
    config = LaunchConfig(
        nnodes, nnodes, nproc, run_id=f"ctxtune-{where}" if rdzv is not None else "ctxtune", rdzv_backend="c10d",
        rdzv_endpoint=where, max_restarts=0,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "ctxtune", *words)
    except SignalException:
        return 130
    except ChildFailedError as error:
        return _told(error.failures)
    except (RuntimeError, OSError, ValueError) as error:
        raise CtxtuneError(
            f"--rdzv {rdzv}: {' '.join(str(error).split())}", "is it the same on all machines?"
        ) from error
    return 0


def _with_port(rdzv: str) -> str:
    host, colon, port = rdzv.rpartition(":")
    if not colon:
        return f"{rdzv}:{_PORT}"
    if not host or not port.isdecimal():
        raise RecipeError(f"--rdzv {rdzv!r} is no HOST:PORT", "such as node1:29500")
    return rdzv


def _told(failures: Mapping[int, Any]) -> int:
    """The exit code of those that told what was wrong. The agent ends all others with SIGTERM as soon as one is dead.

    Raises:
        CtxtuneError: one was killed, and can tell nothing.
    """
    rank, one = min(
        failures.items(), key=lambda item: (item[1].exitcode == -signal.SIGTERM, item[1].exitcode > 0, item[0])
    )
    if one.exitcode > 0:
        return int(one.exitcode)
    raise CtxtuneError(
        f"process {rank} of this run (pid {one.pid}) was killed by {signal.Signals(-one.exitcode).name}",
        "the same command with --resume goes on from the last checkpoint",
    )
