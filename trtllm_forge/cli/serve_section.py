"""The section ``serve`` of the configuration, with what was typed."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.config.settings import DEFAULT_CONFIG_NAME, build_option_environment
from trtllm_forge.errors import ConfigError
from trtllm_forge.serving.plan.options import ServeOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def serve_section(
    typed: Mapping[str, object], config: Path | None, *, no_verify: bool
) -> Mapping[str, Any]:
    """Return the options of a server, and which releases it may know.

    Where nothing is said there is nothing to check, and ``ServeOptions`` has the defaults of the
    section: the schema, which takes longer to load than the rest, is left alone.

    Args:
        typed: The command's parameters; those of the section have the names of its keys.
        config: The file to read.
        no_verify: Whether nothing is compared with the manifest.

    Raises:
        ConfigError: The file, a variable or a flag is wrong, or two flags say two things.
    """
    environment = build_option_environment()
    has_file = config is not None or Path(DEFAULT_CONFIG_NAME).exists()
    if not (no_verify or has_file or environment or _says_something(typed)):
        return {}
    from trtllm_forge.config.load import load_config
    from trtllm_forge.config.schema import ServeSection

    flags = {name: typed[name] for name in ServeSection.model_fields}
    if no_verify and flags["verify"] is not None:
        what = f"--verify {flags['verify']} and --no-verify say two things"
        raise ConfigError(what, hint="forge serve --no-verify")
    said = {**flags, "verify": "off"} if no_verify else flags
    loaded = load_config(flags=said, config_path=config, environment=environment)
    return {**loaded.config.serve.model_dump(), "releases_file": loaded.config.releases_file}


def _says_something(typed: Mapping[str, object]) -> bool:
    names = {field.name for field in fields(ServeOptions)} & set(typed)
    return any(typed[name] is not None and typed[name] is not False for name in names)
