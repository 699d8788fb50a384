"""Option types shared by the commands, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

REPORTING = "What is printed"
BUILDING = "How it runs"
SERVING = "Where it listens"

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
HostOption = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Address to listen on.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
HttpPortOption = Annotated[
    int | None,
    typer.Option(
        "--http-port",
        min=1,
        max=65535,
        help="Port of Triton's HTTP service; a free one when absent.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
GrpcPortOption = Annotated[
    int | None,
    typer.Option(
        "--grpc-port",
        min=1,
        max=65535,
        help="Port of Triton's gRPC service; a free one when absent.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
MetricsPortOption = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=1,
        max=65535,
        help="Port of Triton's metrics; a free one when absent.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
