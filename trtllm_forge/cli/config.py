"""``forge config show``: every configuration value and where it came from."""

from __future__ import annotations

from trtllm_forge.cli.config_options import ConfigFlags, takes_config_options
from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    ConfigPathOption,
    JsonOption,
    ModelArgument,
    QuietOption,
    VerboseOption,
)


@takes_config_options()
def show(
    *,
    model: ModelArgument = None,
    flags: ConfigFlags,
    config: ConfigPathOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Load the configuration as ``build`` would and print it."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.load import load_config
        from trtllm_forge.config.settings import build_option_environment
        from trtllm_forge.config.text import show_document, show_text

        loaded = load_config(
            flags={**flags, "model": model},
            config_path=config,
            environment=build_option_environment(),
        )
        console.result(show_text(loaded), show_document(loaded))
