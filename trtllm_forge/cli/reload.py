"""``forge reload``: switch to a repository's new build while the old one keeps serving."""

from __future__ import annotations

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    JsonOption,
    NoVerifyOption,
    OldRequestsOption,
    QuietOption,
    RepositoryNameArgument,
    VerboseOption,
)
from trtllm_forge.cli.probe import ServerOption


def reload(
    name: RepositoryNameArgument,
    *,
    server: ServerOption = None,
    timeout: OldRequestsOption = None,
    no_verify: NoVerifyOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Replace a served repository with what its folder holds now."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.serving.swap.swap import reload_repository, server_to_change

        settings = read_settings()
        record = server_to_change(settings, server, "reload", name)
        changed = reload_repository(
            record,
            name,
            settings,
            console,
            verify="off" if no_verify else "times",
            timeout_s=timeout,
        )
        console.result(changed.text(), changed.document())
