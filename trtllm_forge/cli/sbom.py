"""``forge sbom``: a model repository's bill of materials, as CycloneDX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    BUILDING,
    JsonOption,
    OverwriteOption,
    QuietOption,
    VerboseOption,
)


def sbom(
    repository: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Model repository, or its name in model_repos.",
            show_default=False,
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="File to write instead of printing.",
            show_default=False,
            rich_help_panel=BUILDING,
        ),
    ] = None,
    force: OverwriteOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Print or write the document; equal repositories give equal documents."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from json import loads

        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.delivery.sbom import repository_sbom, write_sbom
        from trtllm_forge.serving.plan.repositories import named_folder

        model_repos_dir = read_settings().model_repos_dir
        repository = named_folder(repository, model_repos_dir, command="forge sbom")
        text = repository_sbom(repository)
        document = {"schema": 1, "path": str(output) if output else None, "sbom": loads(text)}
        if output is None:
            console.result(text.rstrip("\n"), document)
            return
        write_sbom(text, output, repository_dir=repository, overwrite=force)
        console.result(f"wrote {output}", document)
