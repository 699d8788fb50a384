"""``forge doctor``: what this machine can build and serve, and what it lacks."""

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
from trtllm_forge.runtimes import RuntimeName

ASKING = "Query"

RequireOption = Annotated[
    RuntimeName | None,
    typer.Option(
        "--require",
        metavar="RUNTIME",
        help=(
            "Exit with 3 unless this machine can build for openvino or trtllm, or serve llmapi, "
            "which needs no build."
        ),
        show_default=False,
        rich_help_panel=ASKING,
    ),
]
ReleaseOption = Annotated[
    str | None,
    typer.Option(
        "--trtllm-version",
        metavar="TEXT",
        help="TensorRT-LLM release to check for; defaults to the installed one, else the newest.",
        show_default=False,
        rich_help_panel=ASKING,
    ),
]


def doctor(
    *,
    require: RequireOption = None,
    trtllm_version: ReleaseOption = None,
    config: ConfigPathOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Examine the machine and print what each runtime finds and lacks."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.checkpoint.hub import read_hub_access
        from trtllm_forge.config.load import load_config
        from trtllm_forge.config.settings import build_option_environment, read_settings
        from trtllm_forge.releases.catalogue import read_catalogue
        from trtllm_forge.support.doctor import examine

        asked = load_config(
            flags={"trtllm_version": trtllm_version},
            config_path=config,
            environment=build_option_environment(),
        ).config
        catalogue = read_catalogue(asked.releases_file)
        report = examine(asked, read_settings(), catalogue, read_hub_access())
        lack = report.lack(require) if require else None
        console.result(report.text(), report.document(lack=lack))
        if lack is not None:
            if json:
                # The JSON document already holds the error.
                raise typer.Exit(lack.exit_code)
            raise lack
