"""Writes a workflow file, whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError, unwritable
from trtllm_forge.files.staging import write_whole

if TYPE_CHECKING:
    from pathlib import Path


def write_workflow(path: Path, text: str, *, replace: bool, again: str) -> None:
    """Write the file and create the folders above it.

    Args:
        path: The file to write.
        text: Its content.
        replace: Whether an existing file may be replaced.
        again: The command that would replace it.

    Raises:
        ConfigError: The file exists and ``replace`` is false, or it cannot be written.
    """
    if path.exists() and not replace:
        what = f"{path} already exists"
        raise ConfigError(what, why="it may hold your own changes", hint=again)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise unwritable(path, error) from error
