"""``forge status``: whether one server is ready, and why not."""

from __future__ import annotations

import time

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import JsonOption, QuietOption, ServerArgument, VerboseOption


def status(
    name: ServerArgument = None,
    *,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Print whether a server is ready, and why not; exit with 7 if it is not."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.errors import ServerError
        from trtllm_forge.serving.records.find import find_server
        from trtllm_forge.serving.records.status import look_at

        state_dir = read_settings().state_dir
        record = find_server(state_dir, name, command="forge status", with_ended=True)
        found, now_s = look_at(state_dir, record), time.time()
        console.result(found.text(now_s), found.document(now_s))
        if not found.is_ready:
            raise typer.Exit(ServerError.exit_code)
