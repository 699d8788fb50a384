"""``forge check``: what would go wrong with a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import ConfigPathOption, JsonOption, QuietOption, VerboseOption

_RULES = "Which rules"
_SERVER = "What it is for"
_MENDING = "How it is mended"


def check(
    repository: Annotated[
        Path, typer.Argument(metavar="DIR", help="The model repository.", show_default=False)
    ],
    *,
    trtllm_version: Annotated[
        str | None,
        typer.Option(
            "--trtllm-version",
            metavar="VERSION",
            help="TensorRT-LLM of the server; else it is told by lock, engine or tensors.",
            show_default=False,
            rich_help_panel=_SERVER,
        ),
    ] = None,
    mount_root: Annotated[
        str | None,
        typer.Option(
            "--mount-root",
            metavar="DIR",
            help="Where the repository is mounted on the server.",
            show_default=False,
            rich_help_panel=_SERVER,
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME",
            help="GPU of the server, such as h100-80g.",
            show_default=False,
            rich_help_panel=_SERVER,
        ),
    ] = None,
    world_size: Annotated[
        int | None,
        typer.Option(
            "--world-size",
            min=1,
            metavar="N",
            help="Ranks that the server will start.",
            show_default=False,
            rich_help_panel=_SERVER,
        ),
    ] = None,
    shm_size: Annotated[
        str | None,
        typer.Option(
            "--shm-size",
            metavar="SIZE",
            help="Shared memory of the server, such as 1g, as docker takes it.",
            show_default=False,
            rich_help_panel=_SERVER,
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select",
            metavar="CODES",
            help="Rules to apply, such as FL101,FL4; may be repeated.",
            show_default=False,
            rich_help_panel=_RULES,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            metavar="CODES",
            help="Rules to leave out; may be repeated.",
            show_default=False,
            rich_help_panel=_RULES,
        ),
    ] = None,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix", help="Mend what has exactly one right answer.", rich_help_panel=_MENDING
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="With --fix: print the changes and make none.",
            rich_help_panel=_MENDING,
        ),
    ] = False,
    sarif: Annotated[
        Path | None,
        typer.Option(
            "--sarif",
            metavar="FILE",
            help="Write the findings as SARIF 2.1.0, too.",
            show_default=False,
            rich_help_panel="What is printed",
        ),
    ] = None,
    config: ConfigPathOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Apply the rules, print what they find, and end with 6 when there is an error."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.check.request import CheckRequest, run_check

        outcome = run_check(
            CheckRequest(
                repository=repository,
                trtllm_version=trtllm_version,
                mount_root=mount_root,
                gpu=gpu,
                world_size=world_size,
                shm_size=shm_size,
                select=tuple(select or ()),
                ignore=tuple(ignore or ()),
                fix=fix,
                dry_run=dry_run,
                sarif_path=sarif,
                config_path=config,
            )
        )
        for note in outcome.notes:
            console.note(note)
        console.result(outcome.text(quiet=quiet), outcome.document())
        if outcome.report.count("error"):
            raise typer.Exit(outcome.exit_code)
