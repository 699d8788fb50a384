"""``forge serve``: start Triton, watch it, and stop it with forge."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from trtllm_forge.cli.config_options import ConfigFlags, takes_config_options
from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    BUILDING,
    ConfigPathOption,
    DryRunOption,
    JsonOption,
    NoVerifyOption,
    QuietOption,
    VerboseOption,
)
from trtllm_forge.serving.server.sigterm import leaving_on_sigterm

RepositoriesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[REPOSITORY]...",
        help="Name in model_repos, a folder, or NAME=FOLDER; defaults to the one built last.",
        show_default=False,
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Server name for other commands; defaults to the repository's name.",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]
DetachOption = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="Return once the server is ready, and leave it running.",
        rich_help_panel=BUILDING,
    ),
]


@takes_config_options(only=("serve",))
def serve(
    *,
    repository: RepositoriesArgument = None,
    flags: ConfigFlags,
    name: NameOption = None,
    detach: DetachOption = False,
    no_verify: NoVerifyOption = False,
    config: ConfigPathOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM, or in the background."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console, leaving_on_sigterm():
        from trtllm_forge.config.load import load_config
        from trtllm_forge.config.settings import build_option_environment, read_settings
        from trtllm_forge.serving.plan.options import ServeOptions, without_verify
        from trtllm_forge.serving.plan.repositories import named_repositories
        from trtllm_forge.serving.server.serve import plan_server, start_server

        settings = read_settings()
        loaded = load_config(
            flags=without_verify(flags) if no_verify else flags,
            config_path=config,
            environment=build_option_environment(),
        )
        options = ServeOptions(
            repositories=named_repositories(repository, settings.model_repos_dir, console),
            section=loaded.config.serve,
            name=name,
            is_detached=detach,
            releases_file=loaded.config.releases_file,
        )
        if dry_run:
            plan = plan_server(options, settings, console)
            console.result(plan.text(), plan.document())
            return
        if detach:
            from trtllm_forge.serving.server.detach import start_detached

            detached = start_detached(options, settings, console)
            console.result(detached.text, detached.document)
            console.next_step(f"forge probe --server {shlex.quote(str(detached.document['name']))}")
            return
        server = start_server(options, settings, console)
        # From here on everything goes to stderr: stdout has its one document.
        with open_console(verbose=verbose, quiet=quiet), server:
            console.result(server.text(), server.document())
            console.next_step("forge probe")
            server.wait(max_restarts=options.max_restarts)
