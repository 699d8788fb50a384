"""``forge load``: load another repository into a running server."""

from __future__ import annotations

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    JsonOption,
    NewRepositoryArgument,
    NoVerifyOption,
    QuietOption,
    VerboseOption,
)
from trtllm_forge.cli.probe import ServerOption


def load(
    name: NewRepositoryArgument,
    *,
    server: ServerOption = None,
    no_verify: NoVerifyOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Load a repository into a server, next to those it already serves."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.serving.plan.repositories import named_repository
        from trtllm_forge.serving.swap.swap import load_repository, server_to_change

        settings = read_settings()
        record = server_to_change(settings, server, "load", name)
        repository = named_repository(name, settings.model_repos_dir, console, command="forge load")
        changed = load_repository(
            record,
            repository.name,
            repository.folder,
            settings,
            console,
            verify="off" if no_verify else "times",
        )
        console.result(changed.text(), changed.document())
