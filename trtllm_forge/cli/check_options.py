"""The option types of ``forge check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RULES = "Which rules"
SERVER = "What it is for"
MENDING = "How it is mended"
REPORTING = "What is printed"

RepositoryArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="The model repository, or its name in model_repos.", show_default=False
    ),
]
TrtllmVersionOption = Annotated[
    str | None,
    typer.Option(
        "--trtllm-version",
        metavar="VERSION",
        help="TensorRT-LLM of the server; else it is told by lock, engine or tensors.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
MountRootOption = Annotated[
    str | None,
    typer.Option(
        "--mount-root",
        metavar="DIR",
        help="Where the repository is mounted on the server.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
ServedGpuOption = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        metavar="NAME",
        help="GPU of the server, such as h100-80g.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
WorldSizeOption = Annotated[
    int | None,
    typer.Option(
        "--world-size",
        min=1,
        metavar="N",
        help="Ranks that the server will start.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
ShmSizeOption = Annotated[
    str | None,
    typer.Option(
        "--shm-size",
        metavar="SIZE",
        help="Shared memory of the server, such as 1g, as docker takes it.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
SelectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        metavar="CODES",
        help="Rules to apply, such as FL101,FL4; may be repeated.",
        show_default=False,
        rich_help_panel=RULES,
    ),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="CODES",
        help="Rules to leave out; may be repeated.",
        show_default=False,
        rich_help_panel=RULES,
    ),
]
FixOption = Annotated[
    bool,
    typer.Option("--fix", help="Mend what has exactly one right answer.", rich_help_panel=MENDING),
]
FixDryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="With --fix: print the changes and make none.",
        rich_help_panel=MENDING,
    ),
]
SarifOption = Annotated[
    Path | None,
    typer.Option(
        "--sarif",
        metavar="FILE",
        help="Write the findings as SARIF 2.1.0, too.",
        show_default=False,
        rich_help_panel=REPORTING,
    ),
]
