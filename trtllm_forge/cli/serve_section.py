"""The section ``serve`` of the configuration, with what was typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.config.load import load_config
from trtllm_forge.config.models import ServeSection
from trtllm_forge.errors import ConfigError
from trtllm_forge.settings import build_option_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any


def serve_section(
    typed: Mapping[str, object], config: Path | None, *, no_verify: bool
) -> dict[str, Any]:
    """Return the options of a server, and which releases it may know.

    Args:
        typed: The command's parameters; those of the section have the names of its keys.
        config: The file to read.
        no_verify: Whether nothing is compared with the manifest.

    Raises:
        ConfigError: The file, a variable or a flag is wrong, or two flags say two things.
    """
    flags = {name: typed[name] for name in ServeSection.model_fields}
    if no_verify and flags["verify"] is not None:
        what = f"--verify {flags['verify']} and --no-verify say two things"
        raise ConfigError(what, hint="forge serve --no-verify")
    said = {**flags, "verify": "off"} if no_verify else flags
    loaded = load_config(flags=said, config_path=config, environment=build_option_environment())
    return {**loaded.config.serve.model_dump(), "releases_file": loaded.config.releases_file}
