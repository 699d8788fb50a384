"""Files and folders that only their user can read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.files.staging import staging

if TYPE_CHECKING:
    from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write a file that only its user can read, whole or not at all."""
    make_private(path.parent)
    # O_EXCL: never write into an existing file, which another user may have created.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with staging(path, "part") as scratch:
        with os.fdopen(os.open(scratch, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(path)


def make_private(folder: Path) -> None:
    """Make a folder, and any missing ones above it, accessible only to this user.

    Raises:
        PrerequisiteError: The folder belongs to another user, who could put anything into it.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in (*reversed(missing), folder):
        path.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        what = f"{folder} belongs to another user"
        raise PrerequisiteError(
            what, why="a server loads files from there, so it must belong to this user"
        )
    folder.chmod(0o700)


def read_key(path: Path | None) -> str | None:
    """Return the key in a file, or None if there is none or it cannot be read."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
