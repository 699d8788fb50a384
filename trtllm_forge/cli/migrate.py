"""``forge migrate``: move a repository to another release or to the LLM API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    BUILDING,
    DryRunOption,
    JsonOption,
    QuietOption,
    VerboseOption,
)


def migrate(
    repository: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Repository that serves an engine, or its name in model_repos.",
            show_default=False,
        ),
    ],
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TARGET",
            help="llmapi, or the TensorRT-LLM release to build the new engine with.",
            show_default=False,
            rich_help_panel=BUILDING,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder of the new repository; defaults to DIR-TARGET.",
            show_default=False,
            rich_help_panel=BUILDING,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="Model that it serves, if its files do not say: preset, Hub id or folder.",
            show_default=False,
            rich_help_panel=BUILDING,
        ),
    ] = None,
    trtllm_version: Annotated[
        str | None,
        typer.Option(
            "--trtllm-version",
            metavar="RELEASE",
            help="Release of the LLM API; defaults to the newest in an image.",
            show_default=False,
            rich_help_panel=BUILDING,
        ),
    ] = None,
    from_version: Annotated[
        str | None,
        typer.Option(
            "--from-version",
            metavar="RELEASE",
            help="Release that the repository is for, if its files do not say.",
            show_default=False,
            rich_help_panel=BUILDING,
        ),
    ] = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Write the new repository and report what was carried over and what was not."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.migrate import migrate_repository
        from trtllm_forge.serving.plan.repositories import named_folder

        settings = read_settings()
        report = migrate_repository(
            named_folder(repository, settings.model_repos_dir, command="forge migrate"),
            to,
            settings,
            console,
            output_dir=output,
            model=model,
            trtllm_version=trtllm_version,
            from_version=from_version,
            dry_run=dry_run,
        )
        console.result(report.text(), report.document())
        if not dry_run:
            console.next_step(report.next_steps[0])
