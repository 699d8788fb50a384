"""Puts one file of the store into a published folder without storing its bytes twice.

A large file is a reflink where the file system can (Btrfs, XFS, bcachefs): two files that share
their blocks until one is edited. Elsewhere it is a hard link, read-only when the file is the
store's own, because an edit in place would reach the store. Between file systems it is a copy. A
reflink and a copy keep the modification time of what they were made from, by which they are known
again without being read. A small file is always a copy, so that it can be edited.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from trtllm_forge.files.digest import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.pipeline.store import OutputFile

LINK_ABOVE_BYTES = 1 << 20
"""Files above this size are linked."""

# ``FICLONE`` of linux/fs.h; the fcntl module has the name since Python 3.14.
_FICLONE = 0x40049409
_WRITE_BITS = 0o222


def place_file(source: Path, target: Path, size_bytes: int) -> None:
    """Make ``target``, which must not exist, hold what ``source`` holds."""
    if size_bytes <= LINK_ABOVE_BYTES:
        shutil.copyfile(source, target)
    elif not (_reflink(source, target) or _link(source, target)):
        shutil.copyfile(source, target)
        _keep_time(source, target)


def is_placed(stored: Path, placed: Path, output: OutputFile) -> bool:
    """Return whether ``placed`` still is what ``place_file`` made of ``stored``.

    Small files are read. Large ones are not, unless they were touched: being the same file, or
    having its size and modification time, says enough.
    """
    here, there = placed.stat(), stored.stat()
    if here.st_size != output.size_bytes:
        return False
    if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
        return True
    if output.size_bytes > LINK_ABOVE_BYTES and here.st_mtime_ns == there.st_mtime_ns:
        return True
    return sha256_file(placed) == output.sha256


def _reflink(source: Path, target: Path) -> bool:
    try:
        with source.open("rb") as reader, target.open("xb") as writer:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
    except OSError:  # not on this file system, or not across two
        target.unlink(missing_ok=True)
        return False
    _keep_time(source, target)
    return True


def _link(source: Path, target: Path) -> bool:
    try:
        state = source.stat()
        # A writable file with further names is a user's own checkpoint, to which the store has
        # but a link: its permissions are not ours. What the store links itself is read-only.
        if state.st_mode & _WRITE_BITS and state.st_nlink == 1:
            source.chmod(state.st_mode & ~_WRITE_BITS & 0o777)
        os.link(source, target)
    except OSError:  # another file system, or another owner's file
        return False
    return True


def _keep_time(source: Path, target: Path) -> None:
    state = source.stat()
    # Without it the file is read again next time, and nothing else.
    with suppress(OSError):
        os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns))
