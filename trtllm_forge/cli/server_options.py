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
RepositoryNameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The repository's name, see forge status.")
]
NewRepositoryArgument = Annotated[
    str,
    typer.Argument(
        metavar="REPOSITORY", help="Name below model_repos, or a folder; NAME=FOLDER names it."
    ),
]
OldRequestsOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0,
        help="Seconds to wait for the requests that run; else the server's drain timeout.",
        show_default=False,
        rich_help_panel="What happens to requests",
    ),
]
