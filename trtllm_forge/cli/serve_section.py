"""The section ``serve`` of the configuration, with what was typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.config.load import load_config
from trtllm_forge.errors import ConfigError
from trtllm_forge.settings import build_option_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trtllm_forge.config.models import ServeSection


def serve_section(
    flags: Mapping[str, object], config: Path | None, *, no_verify: bool
) -> ServeSection:
    """Return the options of a server.

    Raises:
        ConfigError: The file, a variable or a flag is wrong, or two flags say two things.
    """
    if no_verify and flags["verify"] is not None:
        what = f"--verify {flags['verify']} and --no-verify say two things"
        raise ConfigError(what, hint="forge serve --no-verify")
    said = {**flags, "verify": "off"} if no_verify else flags
    loaded = load_config(flags=said, config_path=config, environment=build_option_environment())
    return loaded.config.serve
