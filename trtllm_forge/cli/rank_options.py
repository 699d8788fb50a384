"""Options of ``forge serve`` about engines of several ranks."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

RANKS = "ranks"


class ModeName(str, Enum):
    """How ranks work together."""

    LEADER = "leader"
    ORCHESTRATOR = "orchestrator"


class LauncherName(str, Enum):
    """What starts ranks."""

    MPIRUN = "mpirun"
    SRUN = "srun"


WorldSizeOption = Annotated[
    int | None,
    typer.Option(
        "--world-size",
        min=1,
        help="Ranks to start.  [default: as many as the engine has]",
        show_default=False,
        rich_help_panel=RANKS,
    ),
]
ModeOption = Annotated[
    ModeName | None,
    typer.Option(
        "--mode",
        help="How ranks work together.  [default: what fits the engines]",
        show_default=False,
        rich_help_panel=RANKS,
    ),
]
LauncherOption = Annotated[
    LauncherName | None,
    typer.Option(
        "--launcher",
        help="What starts the ranks.  [default: srun in a Slurm allocation, else mpirun]",
        show_default=False,
        rich_help_panel=RANKS,
    ),
]
HostfileOption = Annotated[
    Path | None,
    typer.Option(
        "--hostfile",
        metavar="FILE",
        help="Start the ranks on the hosts that this file lists.",
        show_default=False,
        rich_help_panel=RANKS,
    ),
]
OversubscribeOption = Annotated[
    bool,
    typer.Option(
        "--oversubscribe",
        help="Allow more ranks than there are cores or slots.",
        rich_help_panel=RANKS,
    ),
]
