"""``forge check``: what would go wrong with a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    REPORTING,
    ConfigPathOption,
    JsonOption,
    QuietOption,
    VerboseOption,
)
from trtllm_forge.errors import ConfigError

RULES = "Which rules"
SERVER = "Target server"
FIXING = "Fixes"

RepositoryArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="DIR", help="The model repository, or its name in model_repos.", show_default=False
    ),
]
TrtllmVersionOption = Annotated[
    str | None,
    typer.Option(
        "--trtllm-version",
        metavar="VERSION",
        help="TensorRT-LLM release of the server; else read from lock, engine or tensors.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
MountRootOption = Annotated[
    str | None,
    typer.Option(
        "--mount-root",
        metavar="DIR",
        help="Where the repository is mounted on the server.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
ServedGpuOption = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        metavar="NAME",
        help="GPU of the server, such as h100-80g.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
WorldSizeOption = Annotated[
    int | None,
    typer.Option(
        "--world-size",
        min=1,
        metavar="N",
        help="Ranks that the server will start.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
ShmSizeOption = Annotated[
    str | None,
    typer.Option(
        "--shm-size",
        metavar="SIZE",
        help="Shared memory of the server in docker's notation, such as 1g.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
SelectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        metavar="CODES",
        help="Rules to apply, such as FL101,FL4; may be repeated.",
        show_default=False,
        rich_help_panel=RULES,
    ),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="CODES",
        help="Rules to leave out; may be repeated.",
        show_default=False,
        rich_help_panel=RULES,
    ),
]
FixOption = Annotated[
    bool,
    typer.Option("--fix", help="Fix what has exactly one right answer.", rich_help_panel=FIXING),
]
FixDryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="With --fix: print the changes and make none.",
        rich_help_panel=FIXING,
    ),
]
SarifOption = Annotated[
    Path | None,
    typer.Option(
        "--sarif",
        metavar="FILE",
        help="Also write the findings as SARIF 2.1.0.",
        show_default=False,
        rich_help_panel=REPORTING,
    ),
]
ExplainOption = Annotated[
    str | None,
    typer.Option(
        "--explain",
        metavar="CODE",
        help="Print what a rule means and what to do, and check nothing.",
        show_default=False,
        rich_help_panel=RULES,
    ),
]


def check(
    repository: RepositoryArgument = None,
    *,
    trtllm_version: TrtllmVersionOption = None,
    mount_root: MountRootOption = None,
    gpu: ServedGpuOption = None,
    world_size: WorldSizeOption = None,
    shm_size: ShmSizeOption = None,
    select: SelectOption = None,
    ignore: IgnoreOption = None,
    explain: ExplainOption = None,
    fix: FixOption = False,
    dry_run: FixDryRunOption = False,
    sarif: SarifOption = None,
    config: ConfigPathOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Apply the rules, print what they find, and end with 6 when there is an error."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        if explain is not None:
            from trtllm_forge.check.explanation import explanation_document, explanation_text
            from trtllm_forge.check.registry import find_rule

            rule = find_rule(explain)
            console.result(explanation_text(rule), explanation_document(rule))
            return
        if repository is None:
            what = "forge check needs DIR"
            raise ConfigError(what, hint="forge check --help")
        from trtllm_forge.check.request import CheckRequest, run_check
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.serving.plan.repositories import named_folder

        model_repos_dir = read_settings().model_repos_dir
        repository = named_folder(repository, model_repos_dir, command="forge check")
        outcome = run_check(
            CheckRequest(
                repository=repository,
                trtllm_version=trtllm_version,
                mount_root=mount_root,
                gpu=gpu,
                world_size=world_size,
                shm_size=shm_size,
                select=tuple(select or ()),
                ignore=tuple(ignore or ()),
                fix=fix,
                dry_run=dry_run,
                sarif_path=sarif,
                config_path=config,
            )
        )
        for note in outcome.notes:
            console.note(note)
        console.result(outcome.text(quiet=quiet), outcome.document())
        if outcome.next_command:
            console.next_step(outcome.next_command)
        if outcome.report.count("error"):
            raise typer.Exit(outcome.exit_code)
