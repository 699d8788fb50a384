"""``forge package``: pack a model repository into one file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    BUILDING,
    DryRunOption,
    JsonOption,
    OverwriteOption,
    QuietOption,
    VerboseOption,
)


def package(
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
            help="Package to write; defaults to DIR's name with .tar.zst.",
            show_default=False,
            rich_help_panel=BUILDING,
        ),
    ] = None,
    level: Annotated[
        int,
        typer.Option(
            "--level",
            min=1,
            max=19,
            help="zstd level, 1 to 19: higher is smaller and slower.",
            rich_help_panel=BUILDING,
        ),
    ] = 3,
    force: OverwriteOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Write the package; equal repositories give equal bytes."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.delivery.package import plan_package, require_writable, write_package
        from trtllm_forge.delivery.package_document import (
            package_document,
            plan_document,
            plan_text,
        )
        from trtllm_forge.serving.plan.repositories import named_folder

        model_repos_dir = read_settings().model_repos_dir
        repository = named_folder(repository, model_repos_dir, command="forge package")
        output_path = output or Path(f"{repository.resolve().name}.tar.zst")
        plan = plan_package(repository)
        if dry_run:
            require_writable(plan, output_path, overwrite=force)
            console.result(plan_text(plan, output_path), plan_document(plan, output_path))
            return
        made = write_package(plan, output_path, console, level=level, overwrite=force)
        console.result(f"packaged: {made.path}", package_document(made))
        console.note(f"sha256 {made.sha256}")
        console.next_step(f"forge unpack {shlex.quote(str(made.path))}")
