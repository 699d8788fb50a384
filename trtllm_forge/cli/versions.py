"""``forge versions``: which release is in which image, and what it supports."""

from __future__ import annotations

from typing import Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    ConfigPathOption,
    JsonOption,
    QuietOption,
    VerboseOption,
)

ASKING = "Query"

VersionArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[VERSION]",
        help="TensorRT-LLM release, such as 1.2.1 or 1.2; defaults to all.",
        show_default=False,
    ),
]
ImageOption = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="IMAGE",
        help="Show the release in a Triton image: 26.07, or the full image reference.",
        show_default=False,
        rich_help_panel=ASKING,
    ),
]
ArchitectureOption = Annotated[
    str | None,
    typer.Option(
        "--architecture",
        metavar="NAME",
        help="Show which releases and flows support an architecture, a preset or a folder.",
        show_default=False,
        rich_help_panel=ASKING,
    ),
]
ReleasesFileOption = Annotated[
    str | None,
    typer.Option(
        "--releases-file",
        metavar="FILE",
        help="File describing releases newer than this forge.",
        show_default=False,
        rich_help_panel=ASKING,
    ),
]


def versions(
    *,
    version: VersionArgument = None,
    image: ImageOption = None,
    architecture: ArchitectureOption = None,
    releases_file: ReleasesFileOption = None,
    config: ConfigPathOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Print what forge knows about the releases, and on what evidence."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.load import load_config
        from trtllm_forge.config.settings import build_option_environment
        from trtllm_forge.releases.catalogue import read_catalogue
        from trtllm_forge.support.versions import answer

        loaded = load_config(
            flags={"releases_file": releases_file},
            config_path=config,
            environment=build_option_environment(),
        )
        known = read_catalogue(loaded.config.releases_file)
        told = answer(known, version=version, image=image, architecture=architecture)
        console.result(told.text(), told.document())
