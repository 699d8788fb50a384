"""Option types shared by the commands, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

REPORTING = "What is printed"
BUILDING = "How it runs"
WHICH = "which server"

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="Preset, Hub id, checkpoint folder, or sample; may also stand in forge.yaml.",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=REPORTING)
]
VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="Add decisions and argv; -vv adds the lines of child processes.",
        rich_help_panel=REPORTING,
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Leave only errors and warnings.", rich_help_panel=REPORTING
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the plan and change nothing.", rich_help_panel=BUILDING),
]
NoVerifyOption = Annotated[
    bool,
    typer.Option(
        "--no-verify",
        help="Take a repository even if it differs from its manifest.",
        rich_help_panel=BUILDING,
    ),
]
YesOption = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Answer every question with yes.", rich_help_panel=BUILDING),
]
ForceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--force",
        metavar="STAGE",
        help="Run a stage though it is fresh; may be repeated.",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--force", help="Replace an existing file.", rich_help_panel=BUILDING)
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder of the model repository.",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]
RequiredOutputOption = Annotated[
    Path,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder of the model repository.",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]
ConfigPathOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The configuration to read instead of ./forge.yaml.",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]

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
