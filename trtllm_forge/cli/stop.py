"""``forge stop``: stop servers and wait until all their processes are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    BUILDING,
    WHICH,
    JsonOption,
    QuietOption,
    ServerArgument,
    VerboseOption,
)

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.serving.records.record import ServerRecord

AllOption = Annotated[
    bool, typer.Option("--all", "-a", help="Stop all running servers.", rich_help_panel=WHICH)
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0,
        help="Seconds before running requests are cut off; defaults to the drain timeout.",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]
ForgetOption = Annotated[
    bool,
    typer.Option(
        "--forget", help="Also forget its ports and how it ended.", rich_help_panel=BUILDING
    ),
]


def stop(
    name: ServerArgument = None,
    *,
    all_servers: AllOption = False,
    timeout: TimeoutOption = None,
    forget: ForgetOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Let a server finish its running requests, then stop it."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.errors import ConfigError
        from trtllm_forge.serving.records.stop import stop_servers, stopped_text

        if all_servers and name is not None:
            what = f"{name} and --all conflict"
            raise ConfigError(what, hint="forge stop --all")
        state_dir = read_settings().state_dir
        records = _chosen(state_dir, name, all_servers=all_servers, forget=forget)
        stopped = stop_servers(records, state_dir, timeout, forget=forget)
        document = {
            "schema": 1,
            "servers": [{"name": name, "stopped": how} for name, how in stopped.items()],
        }
        console.result(stopped_text(stopped), document)


def _chosen(
    state_dir: Path, name: str | None, *, all_servers: bool, forget: bool
) -> list[ServerRecord]:
    from trtllm_forge.serving.records.find import find_server
    from trtllm_forge.serving.records.record import all_records

    if not all_servers:
        return [find_server(state_dir, name, command="forge stop", with_ended=True)]
    return [record for record in all_records(state_dir) if forget or record.is_running]
