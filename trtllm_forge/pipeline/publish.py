"""Puts a finished artifact where the user wants it, in one step that cannot be seen half done."""

from __future__ import annotations

import ctypes
import os
import shutil
from typing import TYPE_CHECKING

from trtllm_forge.digest import sha256_file
from trtllm_forge.errors import ConfigError
from trtllm_forge.pipeline.lock import LOCK_NAME
from trtllm_forge.pipeline.store import remove_tree

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.pipeline.store import Entry

_LINK_ABOVE_BYTES = 1 << 20
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def is_published(entry: Entry, output_dir: Path, lock_text: str) -> bool:
    """Return whether ``output_dir`` holds exactly the entry and the lock.

    Small files are compared by digest. Large ones are links to the store, so that being the
    same file says it without reading them; a copy is compared by digest.
    """
    lock_path = output_dir / LOCK_NAME
    try:
        if lock_path.read_text(encoding="utf-8") != lock_text:
            return False
        for output in entry.outputs:
            path, stored = output_dir / output.path, entry.files_dir / output.path
            if path.stat().st_size != output.size_bytes:
                return False
            if not path.samefile(stored) and sha256_file(path) != output.sha256:
                return False
    except OSError:
        return False
    return True


def require_own_folder(output_dir: Path) -> None:
    """Raise unless ``output_dir`` is free, empty, or a repository that forge built.

    Raises:
        ConfigError: Something else is there, which publishing would destroy.
    """
    if output_dir.is_symlink() or (output_dir.exists() and not output_dir.is_dir()):
        what = f"{output_dir} is in the way: it is no folder"
        raise ConfigError(what, hint="--output ANOTHER_FOLDER")
    if not output_dir.is_dir() or (output_dir / LOCK_NAME).exists():
        return
    if any(output_dir.iterdir()):
        what = f"{output_dir} is in the way: it was not built by forge"
        why = f"it is not empty and has no {LOCK_NAME}"
        raise ConfigError(what, why=why, hint="--output ANOTHER_FOLDER")


def publish_entry(entry: Entry, output_dir: Path, lock_text: str) -> None:
    """Make ``output_dir`` hold the entry and the lock, replacing what forge built there before.

    Large files are hard links to the store where the file system allows; small ones are
    copies, so that they can be edited without touching the store.
    """
    require_own_folder(output_dir)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    staged_dir = output_dir.with_name(f".{output_dir.name}.{os.getpid()}.staged")
    remove_tree(staged_dir)
    try:
        for output in entry.outputs:
            target = staged_dir / output.path
            target.parent.mkdir(parents=True, exist_ok=True)
            _place(entry.files_dir / output.path, target, output.size_bytes)
        (staged_dir / LOCK_NAME).write_text(lock_text, encoding="utf-8")
        _swap_in(staged_dir, output_dir)
    finally:
        remove_tree(staged_dir)


def _place(source: Path, target: Path, size_bytes: int) -> None:
    if size_bytes > _LINK_ABOVE_BYTES:
        try:
            os.link(source, target)
        except OSError:  # another file system
            pass
        else:
            return
    shutil.copyfile(source, target)


def _swap_in(staged_dir: Path, output_dir: Path) -> None:
    """Give ``output_dir`` the staged content by one rename; ``staged_dir`` gets the old one."""
    if not output_dir.exists():
        staged_dir.rename(output_dir)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    exchange = getattr(libc, "renameat2", None)
    arguments = (
        _AT_FDCWD,
        os.fsencode(staged_dir.absolute()),
        _AT_FDCWD,
        os.fsencode(output_dir.absolute()),
        _RENAME_EXCHANGE,
    )
    if exchange is not None and exchange(*arguments) == 0:
        return
    # Some file systems cannot exchange: between these two renames the folder is absent,
    # and a build that finds it so publishes again.
    aside_dir = staged_dir.with_name(f"{staged_dir.name}.old")
    output_dir.rename(aside_dir)
    staged_dir.rename(output_dir)
    remove_tree(aside_dir)
