"""``forge ps``: list the running servers."""

from __future__ import annotations

from typing import Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import WHICH, JsonOption, QuietOption, VerboseOption

AllOption = Annotated[
    bool,
    typer.Option("--all", "-a", help="Also list servers that have ended.", rich_help_panel=WHICH),
]


def ps(
    *,
    with_ended: AllOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """List servers with their state and address."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.serving.records.record import all_records
        from trtllm_forge.serving.records.status import servers_document, servers_text

        records = all_records(read_settings().state_dir)
        shown = [record for record in records if with_ended or record.is_running]
        console.result(servers_text(shown), servers_document(shown))
