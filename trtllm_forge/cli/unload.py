"""``forge unload``: unload a repository from a server that keeps serving the others."""

from __future__ import annotations

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    JsonOption,
    OldRequestsOption,
    QuietOption,
    RepositoryNameArgument,
    VerboseOption,
)
from trtllm_forge.cli.probe import ServerOption


def unload(
    name: RepositoryNameArgument,
    *,
    server: ServerOption = None,
    timeout: OldRequestsOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Let a repository's running requests finish, then unload it."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.serving.swap.swap import server_to_change, unload_repository

        settings = read_settings()
        record = server_to_change(settings, server, "unload", name)
        changed = unload_repository(record, name, settings, console, timeout_s=timeout)
        console.result(changed.text(), changed.document())
