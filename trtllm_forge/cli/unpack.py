"""``forge unpack``: unpack a package's model repository, whole or not at all."""

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
    QuietOption,
    VerboseOption,
)


def unpack(
    package: Annotated[
        Path, typer.Argument(metavar="FILE", help="Package to unpack.", show_default=False)
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder of the model repository; defaults to FILE's name.",
            show_default=False,
            rich_help_panel=BUILDING,
        ),
    ] = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Verify every digest, then put the repository in place in one step."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.delivery.package_document import unpacked_document
        from trtllm_forge.delivery.unpack import default_output_dir, unpack_package, verify_package

        output_dir = output or default_output_dir(package)
        if dry_run:
            unpacked = verify_package(package, console)
            text = f"verified: {package}, {len(unpacked.index.files)} files for {output_dir}"
        else:
            unpacked = unpack_package(package, output_dir, console)
            text = f"unpacked: {output_dir}"
        console.result(text, unpacked_document(unpacked, package))
        if not dry_run:
            console.next_step(f"forge serve {shlex.quote(str(output_dir))}")
