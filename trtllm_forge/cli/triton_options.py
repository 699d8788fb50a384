"""Options of ``forge serve`` about the Triton that is started."""

from __future__ import annotations

from typing import Annotated

import typer

from trtllm_forge.cli.options import BUILDING

TritonOption = Annotated[
    str | None,
    typer.Option(
        "--triton",
        metavar="SOURCE",
        help="Where Triton comes from: auto, wheel, docker, docker:IMAGE or a path.  "
        "[default auto]",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]
GpusOption = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="GPUS",
        help="What a container gets: all, or indices or UUIDs.  [default: as many as are needed]",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]
