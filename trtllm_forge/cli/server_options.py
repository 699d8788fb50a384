"""Options of the commands about running servers."""

from __future__ import annotations

from typing import Annotated

import typer

WHICH = "which server"

ServerArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="The server's name, see forge ps; else the only one that runs.",
        show_default=False,
    ),
]
