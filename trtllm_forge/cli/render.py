"""``forge render``: write only the model repository."""

from __future__ import annotations

import shlex

from trtllm_forge.cli.config_options import ConfigFlags, takes_config_options
from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    ConfigPathOption,
    DryRunOption,
    JsonOption,
    ModelArgument,
    QuietOption,
    RequiredOutputOption,
    VerboseOption,
)


@takes_config_options(without=("serve",))
def render(
    *,
    output: RequiredOutputOption,
    model: ModelArgument = None,
    flags: ConfigFlags,
    config: ConfigPathOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Render, check and publish the repository without building an engine."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.build.build import prepare_build, run_build
        from trtllm_forge.config.load import load_config
        from trtllm_forge.config.settings import build_option_environment, read_settings

        loaded = load_config(
            flags={**flags, "model": model},
            config_path=config,
            environment=build_option_environment(),
        )
        prepared = prepare_build(
            loaded.config,
            read_settings(),
            console,
            output_dir=output,
            with_engine=False,
            planning=dry_run,
        )
        if dry_run:
            console.result(prepared.text(), prepared.document())
            return
        result = run_build(prepared, console, confirm=console.confirm)
        done = "nothing to do" if result.skipped else "rendered"
        console.result(f"{done}: {result.repository_dir}", result.document())
        console.next_step(f"forge check {shlex.quote(str(result.repository_dir))}")
