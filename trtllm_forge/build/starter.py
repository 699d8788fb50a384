"""Write a project's first ``forge.yaml``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.checkpoint.presets import resolve_model
from trtllm_forge.config.load import load_flags
from trtllm_forge.config.text import forge_yaml_text
from trtllm_forge.errors import ConfigError, unwritable
from trtllm_forge.files.staging import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def make_starter(flags: Mapping[str, object]) -> str:
    """Return a commented ``forge.yaml`` in which only the values of ``flags`` are set.

    Raises:
        ConfigError: A flag's value is invalid, or the model is unknown.
    """
    loaded = load_flags(flags)
    if loaded.config.model is not None:
        resolve_model(loaded.config.model, revision=loaded.config.checkpoint.revision)
    return forge_yaml_text(loaded)


def write_starter(path: Path, text: str, *, replace: bool) -> None:
    """Write the file atomically.

    Raises:
        ConfigError: It exists and ``replace`` is false, or it cannot be written.
    """
    if path.exists() and not replace:
        what = f"{path} already exists"
        raise ConfigError(what, why="it may hold your own values", hint="forge init --force")
    try:
        write_whole(path, text)
    except OSError as error:
        raise unwritable(path, error) from error
