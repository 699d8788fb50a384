"""Writes a file or folder under a temporary name beside it, then renames it into place.

Leftovers of a killed process are removed by the next one that writes the same target: every writer
holds a shared lock on the folder, so holding it exclusively means that no other process is writing.
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
    """Yield a free path beside the target, and remove what is left there at the end.

    Args:
        target: The file or folder to write; its parent must exist.
        kind: A suffix that no other kind of file beside it uses.

    Raises:
        OSError: The folder cannot be opened.
    """
    # If others are writing here or the file system has no locks, leave everything as it is.
    with suppress(OSError), exclusive_now(target.parent, is_folder=True):
        ends = (f".{kind}", f".{kind}{_ASIDE}")
        for leftover in list(target.parent.iterdir()):
            if leftover.name.startswith(f".{target.name}.") and leftover.name.endswith(ends):
                remove_tree(leftover)
    # Not the process id: processes in two containers may share the disk and have the same id.
    path = target.parent / f".{target.name}.{os.urandom(4).hex()}.{kind}"
    with shared(target.parent, is_folder=True):
        try:
            yield path
        finally:
            remove_tree(path)


def replace_folder(staged_dir: Path, target: Path) -> None:
    """Put the staged folder at ``target`` by one rename.

    The old folder is then at ``staged_dir``, if the file system can exchange names.

    Raises:
        OSError: It cannot be renamed; ``target`` is unchanged.
    """
    if not target.exists():
        staged_dir.rename(target)
        return
    # Not at the top: ctypes loads slowly, and few commands replace a folder.
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
    # Some file systems cannot exchange names: between these two renames the folder is absent.
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
        OSError: It cannot be written; an existing file is unchanged.
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
    """Return an unused name beside ``path``: ``name-2``, ``name-3`` and so on."""
    numbers = range(2, 1000)
    return next(
        (free for n in numbers if not (free := path.with_name(f"{path.name}-{n}")).exists()),
        path.with_name(f"{path.name}-{os.urandom(4).hex()}"),
    )


def remove_tree(path: Path) -> None:
    """Remove a file or folder with all below it, read-only files too, if it exists."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
