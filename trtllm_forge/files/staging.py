"""Writes a file or folder under a name beside it, then puts it in place by one rename.

What a killed process left under such a name is removed by the next one that writes the target:
whoever stages holds a shared lock on the folder, so an exclusive one says that nobody does.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from trtllm_forge.files.lock import exclusive_now, shared

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_ASIDE = ".old"


@contextmanager
def staging(target: Path, kind: str) -> Iterator[Path]:
    """Give a free name in the target's folder, and leave nothing under it.

    Args:
        target: What is written; its folder has to be there.
        kind: A word that no other kind of file beside it is staged under.

    Raises:
        OSError: The folder cannot be opened.
    """
    # Otherwise others stage here, or the file system has no locks: leave all as it is.
    with suppress(OSError), exclusive_now(target.parent, is_folder=True):
        ends = (f".{kind}", f".{kind}{_ASIDE}")
        for leftover in list(target.parent.iterdir()):
            if leftover.name.startswith(f".{target.name}.") and leftover.name.endswith(ends):
                remove_tree(leftover)
    # No process id: processes in two containers on one disk may have the same.
    path = target.parent / f".{target.name}.{os.urandom(4).hex()}.{kind}"
    with shared(target.parent, is_folder=True):
        try:
            yield path
        finally:
            remove_tree(path)


def replace_folder(staged_dir: Path, target: Path) -> None:
    """Give ``target`` the staged folder by one rename; what it was is then at ``staged_dir``.

    Raises:
        OSError: It cannot be renamed; ``target`` is as it was.
    """
    if not target.exists():
        staged_dir.rename(target)
        return
    # Not at the top: it takes a while to load, and few commands replace a folder.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    exchange = getattr(libc, "renameat2", None)
    arguments = (
        _AT_FDCWD,
        os.fsencode(staged_dir.absolute()),
        _AT_FDCWD,
        os.fsencode(target.absolute()),
        _RENAME_EXCHANGE,
    )
    if exchange is not None and exchange(*arguments) == 0:
        return
    # Some file systems cannot exchange: between these two renames the folder is absent.
    aside_dir = staged_dir.with_name(f"{staged_dir.name}{_ASIDE}")
    target.rename(aside_dir)
    try:
        staged_dir.rename(target)
    except OSError:
        aside_dir.rename(target)
        raise
    remove_tree(aside_dir)


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
        path.with_name(f"{path.name}-{os.urandom(4).hex()}"),
    )


def remove_tree(path: Path) -> None:
    """Remove a folder and all below it, read-only files too; nothing there is fine."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
