"""The command line equivalent to a configuration, for hints that work as typed."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from trtllm_forge.config.keys import config_keys

if TYPE_CHECKING:
    from trtllm_forge.config.key import ConfigKey
    from trtllm_forge.config.schema import ForgeConfig


def build_command(config: ForgeConfig, **changes: str | int | None) -> str:
    """Return ``forge build`` with every value that is not the default, and with ``changes``.

    Args:
        config: The configuration.
        changes: New values by key name, appended last; None leaves the key out.
    """
    kept: list[str] = []
    changed: list[str] = []
    for key in config_keys():
        if key.name in changes:
            value = changes[key.name]
            # Even if it is the default: forge.yaml may say otherwise.
            changed += [] if value is None else _words(key, value)
        elif key.name != "model" and key.section != "serve":
            holder = getattr(config, key.section) if key.section else config
            value = getattr(holder, key.name)
            kept += [] if value == key.default else _words(key, value)
    return shlex.join(["forge", "build", str(config.model), *kept, *changed])


def other_runtime_command(
    config: ForgeConfig, runtime: str, *, trtllm_version: str | None = None
) -> str:
    """Return a build of the same model for another runtime, without the ``build`` section."""
    plain = replace(config, build=type(config.build)())
    return build_command(plain, runtime=runtime, trtllm_version=trtllm_version)


def _words(key: ConfigKey, value: object) -> list[str]:
    if key.name == "precision":
        return [f"--{str(value).replace('_', '-')}"]
    if key.kind == "bool":
        return [key.flag if value else key.flag.replace("--", "--no-", 1)]
    return [key.flag, str(value)]
