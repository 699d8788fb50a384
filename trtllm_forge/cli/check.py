"""``forge check``: what would go wrong with a model repository."""

from __future__ import annotations

import typer

from trtllm_forge.cli.check_options import (
    FixDryRunOption,
    FixOption,
    IgnoreOption,
    MountRootOption,
    RepositoryArgument,
    SarifOption,
    SelectOption,
    ServedGpuOption,
    ShmSizeOption,
    TrtllmVersionOption,
    WorldSizeOption,
)
from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import ConfigPathOption, JsonOption, QuietOption, VerboseOption


def check(
    repository: RepositoryArgument,
    *,
    trtllm_version: TrtllmVersionOption = None,
    mount_root: MountRootOption = None,
    gpu: ServedGpuOption = None,
    world_size: WorldSizeOption = None,
    shm_size: ShmSizeOption = None,
    select: SelectOption = None,
    ignore: IgnoreOption = None,
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
        if outcome.report.count("error"):
            raise typer.Exit(outcome.exit_code)
