"""A name beside the target to write under, until what is written is whole and can be renamed.

What a killed process left under such a name is removed by the next one that writes the target:
whoever stages holds a shared lock on the folder, so an exclusive one says that nobody does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def staging(target: Path, kind: str) -> Iterator[Path]:
    """Give a free name in the target's folder, and leave nothing under it.

    Args:
        target: What is written; its folder has to be there.
        kind: A word that no other kind of file beside it is staged under.

    Raises:
        OSError: The folder cannot be opened.
    """
    # No process id: processes in two containers on one disk may have the same.
    path = target.with_name(f".{target.name}.{token_hex(4)}.{kind}")
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Otherwise others stage here, or the file system has no locks: leave all as it is.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in list(target.parent.iterdir()):
                name = leftover.name
                if name.startswith(f".{target.name}.") and name.endswith(f".{kind}"):
                    _remove(leftover)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            yield path
        finally:
            if path.exists() or path.is_symlink():
                _remove(path)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        OSError: It cannot be written; what was there is as it was.
    """
    if path.exists() and not path.is_file():
        # A pipe or a device, such as /dev/stdout.
        path.write_text(text, encoding="utf-8")
        return
    target = path.resolve() if path.is_symlink() else path
    with staging(target, "part") as part_path:
        part_path.write_text(text, encoding="utf-8")
        part_path.replace(target)


def free_name(path: Path) -> Path:
    """Return a name beside ``path`` that nothing has: ``name-2``, ``name-3`` and so on."""
    numbers = range(2, 1000)
    return next(
        (free for n in numbers if not (free := path.with_name(f"{path.name}-{n}")).exists()),
        path.with_name(f"{path.name}-{token_hex(4)}"),
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a folder and all below it, read-only files too; nothing there is fine."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
