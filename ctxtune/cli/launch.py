"""`--nproc` and what belongs to it: the command that is typed starts the processes that do it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctxtune.cli import console

if TYPE_CHECKING:
    from ctxtune.commands.accelerate import Processes

Nproc = Annotated[int | None, typer.Option("--nproc", min=1, help="Processes of this machine that share the work.")]
Nnodes = Annotated[int | None, typer.Option("--nnodes", min=1, help="Machines that share the work, with --rdzv.")]
Rdzv = Annotated[str | None, typer.Option("--rdzv", help="Where machines meet, the same on all: HOST:PORT of one.")]
Fsdp = Annotated[
    bool, typer.Option("--fsdp", help="Share the model's numbers out to the processes too: each holds a part of them.")
]
Accelerate = Annotated[
    Path | None, typer.Option("--accelerate", help="A file of `accelerate config`, which says all of these.")
]


def hand_on(
    nproc: int | None, nnodes: int | None = None, rdzv: str | None = None, accelerate: Path | None = None,
    here: bool = False,
) -> "Processes":  # fmt: skip
    """Where several processes are asked for, start them and leave with what they come to; those go on from here.

    With `here` nothing is started: the command needs one process alone.
    """
    from ctxtune.backend.ranks import launched, ranks
    from ctxtune.commands.accelerate import Processes, read_config
    from ctxtune.commands.launch import launch

    said = read_config(accelerate) if accelerate is not None else Processes()
    said = replace(said, nproc=nproc or said.nproc, nnodes=nnodes or said.nnodes, rdzv=rdzv or said.rdzv)
    if launched():
        console.Quiet.follows = not ranks().leads
    elif said.nproc * said.nnodes > 1 and not here:
        sys.exit(launch(sys.argv[1:], said.nproc, said.nnodes, said.rdzv))
    return said
