"""Options of ``forge serve``: what is served, and how it is kept running."""

from __future__ import annotations

from typing import Annotated

import typer

from trtllm_forge.cli.options import BUILDING, SERVING

KEEPING = "How it is kept running"

RepositoryArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[REPOSITORY]...",
        help="Name below model_repos, a folder, or NAME=FOLDER; else the one built last.",
        show_default=False,
    ),
]
ReadyTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--ready-timeout-s",
        min=0,
        help="Seconds until the server must be ready; else by the size of what it loads.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
DrainTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--drain-timeout-s",
        min=0,
        help="Seconds that running requests have to end when it is stopped.  [default 30]",
        show_default=False,
        rich_help_panel=KEEPING,
    ),
]
RestartOption = Annotated[
    str | None,
    typer.Option(
        "--restart",
        metavar="WORD",
        help="Start it again when it ends by itself: never or on-failure.  [default never]",
        show_default=False,
        rich_help_panel=KEEPING,
    ),
]
MaxRestartsOption = Annotated[
    int | None,
    typer.Option(
        "--max-restarts",
        min=0,
        help="How often, until it was ready for 10 minutes.  [default 5]",
        show_default=False,
        rich_help_panel=KEEPING,
    ),
]
VerifyOption = Annotated[
    str | None,
    typer.Option(
        "--verify",
        metavar="WORD",
        help="Compare the repository with its manifest first: times, full or off.  [default times]",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]
NoVerifyOption = Annotated[
    bool,
    typer.Option(
        "--no-verify",
        help="Serve a repository that is not what its manifest says.",
        rich_help_panel=BUILDING,
    ),
]
DetachOption = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="Return once it is ready, and leave it running.",
        rich_help_panel=KEEPING,
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="What other commands call it; else the repository's name.",
        show_default=False,
        rich_help_panel=KEEPING,
    ),
]
