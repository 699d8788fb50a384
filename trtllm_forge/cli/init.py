"""``forge init``: write a commented ``forge.yaml``."""

from __future__ import annotations

from pathlib import Path

from trtllm_forge.cli.config_options import ConfigFlags, takes_config_options
from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    DryRunOption,
    JsonOption,
    ModelArgument,
    OverwriteOption,
    QuietOption,
    VerboseOption,
)


@takes_config_options()
def init(
    *,
    model: ModelArgument = None,
    flags: ConfigFlags,
    force: OverwriteOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Write ``./forge.yaml``: given values are set, all others commented out."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.build.starter import make_starter, write_starter
        from trtllm_forge.config.settings import DEFAULT_CONFIG_NAME

        path = Path(DEFAULT_CONFIG_NAME)
        text = make_starter({**flags, "model": model})
        if dry_run:
            console.result(text.rstrip("\n"), {"schema": 1, "path": str(path), "text": text})
            return
        write_starter(path, text, replace=force)
        console.result(f"wrote {path}", {"schema": 1, "path": str(path), "text": text})
        console.next_step("forge config show")
