"""Option types shared by the commands, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

REPORTING = "Reporting"
BUILDING = "General"
WHICH = "Server"

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="Preset, Hub id, checkpoint folder, or sample; can also be set in forge.yaml.",
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
        help="Also print decisions and command lines; -vv adds child process output.",
        rich_help_panel=REPORTING,
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print only errors and warnings.", rich_help_panel=REPORTING
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
        help="Accept a repository even if it differs from its manifest.",
        rich_help_panel=BUILDING,
    ),
]
YesOption = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Answer yes to every question.", rich_help_panel=BUILDING),
]
ForceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--force",
        metavar="STAGE",
        help="Rerun a stage even if it is fresh; may be repeated.",
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
        help="Configuration file to read instead of ./forge.yaml.",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]

ServerArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="Server name, as shown by forge ps; defaults to the only running server.",
        show_default=False,
    ),
]
RepositoryNameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Repository name, as shown by forge status.")
]
NewRepositoryArgument = Annotated[
    str,
    typer.Argument(
        metavar="REPOSITORY",
        help="Name in model_repos, or a folder; NAME=FOLDER gives the folder a name.",
    ),
]
OldRequestsOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0,
        help="Seconds to wait for running requests; defaults to the server's drain timeout.",
        show_default=False,
        rich_help_panel="Requests",
    ),
]
