"""Locks between processes, on a file or folder; the kernel frees them when the holder ends.

A lock file contains the name of its holder, if it gave one: ``process 4711 on host``.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class HeldError(BlockingIOError):
    """Another process holds the lock.

    Attributes:
        holder: The holder's name; may be empty.
    """

    def __init__(self, holder: str) -> None:
        super().__init__("another process holds the lock")
        self.holder = holder


@contextmanager
def shared(path: Path, *, is_folder: bool = False) -> Iterator[None]:
    """Hold a shared lock, which keeps others from holding it exclusively.

    A file system without locks is fine: there nobody can hold it exclusively either.

    Args:
        path: The lock file, created if it does not exist.
        is_folder: Whether it is a folder, which must exist.

    Raises:
        OSError: The file cannot be opened.
    """
    with _opened(path, is_folder=is_folder) as descriptor:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


@contextmanager
def exclusive(
    path: Path, *, name: str = "", waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold an exclusive lock; wait while others hold it.

    Args:
        path: The lock file, created if it does not exist.
        name: The name of this process, for those that wait.
        waiting: Called with the holder's name before waiting for it.

    Raises:
        OSError: The file cannot be opened, or its file system has no locks.
    """
    with _opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting(_holder(path))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with _named(descriptor, name):
            yield


@contextmanager
def exclusive_now(path: Path, *, name: str = "", is_folder: bool = False) -> Iterator[None]:
    """Hold an exclusive lock, or fail at once.

    Args:
        path: The lock file, created if it does not exist.
        name: The name of this process, for the others.
        is_folder: Whether it is a folder, which must exist and holds no name.

    Raises:
        HeldError: Another process holds it.
        OSError: The file cannot be opened, or its file system has no locks.
    """
    with _opened(path, is_folder=is_folder) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HeldError("" if is_folder else _holder(path)) from error
        with _named(descriptor, name):
            yield


@contextmanager
def _opened(path: Path, *, is_folder: bool = False) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _named(descriptor: int, name: str) -> Iterator[None]:
    """Keep this process's name in the lock file."""
    if not name:
        yield
        return
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, name.encode(), 0)
    try:
        yield
    finally:
        os.ftruncate(descriptor, 0)


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()
