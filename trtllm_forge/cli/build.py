"""``forge build``: build a model repository from MODEL."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from trtllm_forge.cli.config_options import ConfigFlags, takes_config_options
from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    BUILDING,
    ConfigPathOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    ModelArgument,
    OutputOption,
    QuietOption,
    VerboseOption,
    YesOption,
)

LockedOption = Annotated[
    bool,
    typer.Option(
        "--locked",
        help="Fail if the result would differ from forge.lock.",
        rich_help_panel=BUILDING,
    ),
]
LockOption = Annotated[
    Path | None,
    typer.Option(
        "--lock",
        metavar="FILE",
        help="Lock file to enforce, which implies --locked; defaults to the one beside "
        "forge.yaml, else the repository's.",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]


@takes_config_options(without=("serve",))
def build(
    *,
    model: ModelArgument = None,
    flags: ConfigFlags,
    output: OutputOption = None,
    config: ConfigPathOption = None,
    force: ForceOption = None,
    locked: LockedOption = False,
    lock: LockOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Plan the stages, run those that are not fresh, and publish the repository."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.build.build import prepare_build, run_build
        from trtllm_forge.config.load import load_config
        from trtllm_forge.config.settings import build_option_environment, read_settings
        from trtllm_forge.pipeline.locked import find_held_lock

        loaded = load_config(
            flags={**flags, "model": model},
            config_path=config,
            environment=build_option_environment(),
        )
        settings = read_settings()
        prepared = prepare_build(
            loaded.config,
            settings,
            console,
            output_dir=output,
            force=frozenset(force or ()),
            planning=dry_run,
        )
        held_lock = None
        if locked or lock is not None:
            config_dir = config.parent if config else Path()
            held_lock = find_held_lock(lock, config_dir=config_dir, output_dir=prepared.output_dir)
            held_lock.require_plan(prepared.plan)
        if dry_run:
            console.result(prepared.text(), prepared.document())
            return
        result = run_build(
            prepared,
            console,
            confirm=lambda text: yes or console.confirm(text),
            held_lock=held_lock,
        )
        done = "nothing to do" if result.skipped else "built"
        console.result(f"{done}: {result.repository_dir}", result.document())
        is_known = result.repository_dir.parent == settings.model_repos_dir
        name = result.repository_dir.name if is_known else str(result.repository_dir)
        console.next_step(f"forge serve {shlex.quote(name)}")
