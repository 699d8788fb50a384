"""Put a file of the store into a published folder without storing its bytes twice.

A large file becomes a reflink where the file system supports it (Btrfs, XFS, bcachefs): two files
that share their blocks until one is edited. Elsewhere it becomes a hard link, read-only if the file
belongs to the store, because an edit in place would change the store too. Across file systems it
is copied. Reflinks and copies keep the modification time of their source, so that they are
recognised later without being read. A small file is always copied, so that it can be edited.
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
    """Create ``target``, which must not exist, with the bytes of ``source``."""
    if size_bytes <= LINK_ABOVE_BYTES:
        shutil.copyfile(source, target)
    elif not (_reflink(source, target) or _link(source, target)):
        shutil.copyfile(source, target)
        _keep_time(source, target)


def is_placed(stored: Path, placed: Path, output: OutputFile) -> bool:
    """Return whether ``placed`` is still what ``place_file`` made from ``stored``.

    Small files are read. A large file is read only if it was touched: it is otherwise the same
    inode, or has the same size and modification time.
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
    except OSError:  # not supported here, or across file systems
        target.unlink(missing_ok=True)
        return False
    _keep_time(source, target)
    return True


def _link(source: Path, target: Path) -> bool:
    try:
        state = source.stat()
        # A writable file with more than one name is the user's own checkpoint, which the store
        # only links to: leave its permissions alone. Files linked by the store are read-only.
        if state.st_mode & _WRITE_BITS and state.st_nlink == 1:
            source.chmod(state.st_mode & ~_WRITE_BITS & 0o777)
        os.link(source, target)
    except OSError:  # another file system, or another owner's file
        return False
    return True


def _keep_time(source: Path, target: Path) -> None:
    state = source.stat()
    # Without the time, the file is merely read again next time.
    with suppress(OSError):
        os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns))
