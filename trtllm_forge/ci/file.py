"""Puts a workflow's file in place, whole or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def write_workflow(path: Path, text: str, *, replace: bool, again: str) -> None:
    """Write the file, with the folders above it.

    Args:
        path: Where it goes.
        text: What it holds.
        replace: Whether a file that is there may go.
        again: The command that would replace it.

    Raises:
        ConfigError: It is there already and ``replace`` is false, or it cannot be written.
    """
    if path.exists() and not replace:
        what = f"{path} is there already"
        raise ConfigError(what, why="it may hold your own changes", hint=again)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        what = f"{path} cannot be written"
        why = f"{error.filename}: {(error.strerror or str(error)).lower()}"
        raise ConfigError(what, why=why) from error
