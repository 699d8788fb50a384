"""Unpack a package completely and exactly as its index says, or not at all.

The archive is not trusted. Its index is validated, and its members must match the index in order
and size, so that it can contain nothing else. Files are written beside the output folder; links are
made last, so that no file can be written through one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from trtllm_forge.delivery.package import PACKAGE_SUFFIX, TRAILER_BYTES, load_zstandard, trailer_of
from trtllm_forge.delivery.package_index import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    TOP_FOLDER,
    PackageIndex,
    parse_index,
)
from trtllm_forge.errors import BuildError, CheckpointError, unreadable, unwritable
from trtllm_forge.files.staging import replace_folder, staging
from trtllm_forge.pipeline.lock import LOCK_NAME
from trtllm_forge.pipeline.publish import require_own_folder
from trtllm_forge.triton.repository.names import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtllm_forge.delivery.package_index import IndexedFile
    from trtllm_forge.reporter import Reporter

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_CHUNK_BYTES = 1 << 20
_ZEROS = bytes(_CHUNK_BYTES)
# Tar's overhead: a header, a PAX header before it, and the block that tarfile reads ahead.
_HEADER_BYTES = 64 << 10
_MAX_WINDOW_BYTES = 1 << 27
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.DIRTYPE: "a folder",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """An unpacked or verified package.

    Attributes:
        output_dir: The unpacked repository; None if it was only verified.
        index: Its content, all of whose digests were verified.
    """

    output_dir: Path | None
    index: PackageIndex


def default_output_dir(package_path: Path) -> Path:
    """Return the default folder to unpack to: named like the package, in the working folder."""
    name = package_path.name
    return Path(name.removesuffix(PACKAGE_SUFFIX) if name != PACKAGE_SUFFIX else "package")


def verify_package(package_path: Path, reporter: Reporter) -> Unpacked:
    """Read the whole package and compare every digest; write nothing.

    Raises:
        ConfigError: It cannot be read.
        CheckpointError: It is truncated, damaged, or not a package.
    """
    index = _take_apart(package_path, None, reporter)
    return Unpacked(output_dir=None, index=index)


def unpack_package(package_path: Path, output_dir: Path, reporter: Reporter) -> Unpacked:
    """Unpack the package's repository to ``output_dir`` if everything matches its index.

    An earlier repository built by forge is replaced; anything else is left alone.

    Raises:
        ConfigError: The package cannot be read, or the folder was not built by forge.
        CheckpointError: The package is truncated, damaged, or not a package.
        BuildError: No space is left.
    """
    _require_package(package_path)
    require_own_folder(output_dir)
    with _writing(output_dir):
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        with staging(output_dir, "unpacked") as staged_dir:
            staged_dir.mkdir()
            index = _take_apart(package_path, staged_dir, reporter)
            _touch_records(staged_dir)
            replace_folder(staged_dir, output_dir)
    return Unpacked(output_dir=output_dir, index=index)


def _require_package(package_path: Path) -> None:
    """Reject a file that is clearly not a package, before checking the output path."""
    try:
        with package_path.open("rb") as file:
            _whole_bytes(package_path, file)
    except OSError as error:
        raise unreadable(package_path, error) from error


def _touch_records(staged_dir: Path) -> None:
    """Make lock and manifest the newest files: all others were just compared with the index.

    Otherwise ``serve`` and the next build would think that large files were edited later.
    """
    for name in (LOCK_NAME, MANIFEST_NAME):
        if (staged_dir / name).is_file():
            (staged_dir / name).touch()


class _Source:
    """The compressed file, with the position up to which it was read."""

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        self._file = file
        self._left = size_bytes
        self.position = 0

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        chunk = self._file.read(wanted)
        self._left -= len(chunk)
        self.position += len(chunk)
        return chunk


class _Bounded:
    """The archive as a stream, limited to what the next member may take.

    A header may claim gigabytes for a name, and a few bytes of zstd may expand to them.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._left = 0

    def allow(self, size_bytes: int) -> None:
        self._left = size_bytes

    def read(self, size: int) -> bytes:
        if size > self._left:
            raise _TooLongError
        chunk: bytes = self._stream.read(size)
        self._left -= len(chunk)
        return chunk


class _TooLongError(Exception):
    """The archive is longer than its index says."""


class _Unpacking:
    """One pass over a package, with its position for error messages."""

    def __init__(self, package_path: Path, source: _Source, stream: _Bounded) -> None:
        self.package = str(package_path)
        self.source = source
        self.stream = stream
        self.member = INDEX_NAME

    def damaged(self, *, because: str) -> CheckpointError:
        what = f"{self.package} is damaged at {self.member}"
        return CheckpointError(what, why=f"{because}, near byte {self.source.position} of the file")

    def refused(self, *, because: str) -> CheckpointError:
        what = f"{self.package} is refused: {because}"
        return CheckpointError(what, why="forge does not write such packages; nothing was written")


def _take_apart(package_path: Path, target_dir: Path | None, reporter: Reporter) -> PackageIndex:
    zstandard = load_zstandard()
    try:
        file = package_path.open("rb")
    except OSError as error:
        raise unreadable(package_path, error) from error
    with file:
        source = _Source(file, _whole_bytes(package_path, file))
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        reader = decompressor.stream_reader(source, read_across_frames=True, closefd=False)
        bounded = _Bounded(reader)
        unpacking = _Unpacking(package_path, source, bounded)
        try:
            bounded.allow(_HEADER_BYTES)
            with tarfile.open(fileobj=bounded, mode="r|") as archive:  # type: ignore[call-overload]
                index = _read_index(archive, unpacking)
                _take_members(archive, index, target_dir, unpacking, reporter)
        except zstandard.ZstdError as error:
            raise unpacking.damaged(because=f"zstd: {error}") from error
        except (tarfile.TarError, EOFError) as error:
            raise unpacking.damaged(because=f"tar: {error}") from error
        except _TooLongError as error:
            raise unpacking.damaged(because="it is longer than its index says") from error
    if target_dir is not None:
        _make_links(index, target_dir, unpacking)
    return index


def _whole_bytes(package_path: Path, file: IO[bytes]) -> int:
    """Return the bytes before the frame that ends a package.

    Raises:
        CheckpointError: The file is not a package, or its end is missing.
    """
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(_ZSTD_MAGIC)) != _ZSTD_MAGIC:
        what = f"{package_path} is not a forge package"
        raise CheckpointError(what, why="it does not start like a zstd file")
    content_bytes = max(size_bytes - TRAILER_BYTES, 0)
    file.seek(content_bytes)
    if file.read() != trailer_of(content_bytes):
        what = f"{package_path} is incomplete: its end is missing after byte {size_bytes}"
        why = "a copy or a download was interrupted, or something was appended to the file"
        raise CheckpointError(what, why=why)
    file.seek(0)
    return content_bytes


def _read_index(archive: tarfile.TarFile, unpacking: _Unpacking) -> PackageIndex:
    member = archive.next()
    if member is None or member.name != INDEX_NAME or not _is_plain(member):
        what = f"{unpacking.package} is not a forge package"
        raise CheckpointError(what, why=f"its first member is not {INDEX_NAME}")
    if member.size > MAX_INDEX_BYTES:
        raise unpacking.refused(because=f"its index has {member.size} bytes")
    unpacking.stream.allow(member.size + _HEADER_BYTES)
    stream = archive.extractfile(member)
    text = stream.read() if stream else b""
    return parse_index(text, package=unpacking.package)


def _take_members(
    archive: tarfile.TarFile,
    index: PackageIndex,
    target_dir: Path | None,
    unpacking: _Unpacking,
    reporter: Reporter,
) -> None:
    done = 0
    for file in index.files:
        member = _next_member(archive, file.path, unpacking)
        if not _is_plain(member) or member.size != file.size_bytes:
            raise unpacking.refused(because=_not_a_file(member, file))
        unpacking.stream.allow(file.size_bytes + _HEADER_BYTES)
        stream = archive.extractfile(member)
        assert stream is not None
        digest = _copy(stream, None if target_dir is None else target_dir / file.path)
        if digest != file.sha256:
            raise unpacking.damaged(because="its digest differs from the index")
        done += file.size_bytes
        reporter.progress("unpack", done, index.size_bytes, "bytes")
    for folder in index.folders:
        if not _next_member(archive, folder, unpacking).isdir():
            raise unpacking.refused(because=f"{folder} is not a folder")
        if target_dir is not None:
            (target_dir / folder).mkdir(parents=True)
    for link in index.links:
        member = _next_member(archive, link.path, unpacking)
        if not member.issym() or member.linkname != link.target:
            raise unpacking.refused(because=f"{link.path} is not the link in its index")
    unpacking.stream.allow(_HEADER_BYTES)
    extra = archive.next()
    if extra is not None:
        described = _described(extra).rstrip(",")
        raise unpacking.refused(because=f"its index does not list {described}")
    _require_end(unpacking)


def _next_member(archive: tarfile.TarFile, path: str, unpacking: _Unpacking) -> tarfile.TarInfo:
    unpacking.member = path
    unpacking.stream.allow(_HEADER_BYTES)
    member = archive.next()
    if member is None:
        raise unpacking.damaged(because="the archive ends before it")
    if member.name != f"{TOP_FOLDER}/{path}":
        raise unpacking.refused(because=f"{_described(member)} is where its index has {path}")
    return member


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None


def _not_a_file(member: tarfile.TarInfo, file: IndexedFile) -> str:
    if not _is_plain(member):
        return _described(member)
    return f"{file.path} has {member.size} bytes, its index says {file.size_bytes}"


def _described(member: tarfile.TarInfo) -> str:
    kind = _KINDS.get(member.type, "" if _is_plain(member) else "of an unsupported kind")
    name = ascii(member.name)[1:-1][:200]
    return f"{name}, which is {kind}," if kind else name


def _copy(stream: IO[bytes], path: Path | None) -> str:
    digest = hashlib.sha256()
    if path is None:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    # Whatever the archive says, nothing in a model repository needs to be executable.
    with os.fdopen(os.open(path, flags, 0o644), "wb") as target:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            if chunk == _ZEROS:
                # A hole stays a hole.
                target.seek(len(chunk), os.SEEK_CUR)
            else:
                target.write(chunk)
        target.truncate()
    return digest.hexdigest()


def _require_end(unpacking: _Unpacking) -> None:
    """Check that only zeros follow, which end a tar archive."""
    unpacking.member = "its end"
    unpacking.stream.allow(_HEADER_BYTES)
    while chunk := unpacking.stream.read(tarfile.BLOCKSIZE):
        if chunk.strip(b"\0"):
            raise unpacking.refused(because="there is data after the last member")


def _make_links(index: PackageIndex, target_dir: Path, unpacking: _Unpacking) -> None:
    top = target_dir.resolve()
    for link in index.links:
        path = target_dir / link.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(link.target)
    for link in index.links:
        # Resolved in the finished tree, because a link may lead through others.
        try:
            resolved = (target_dir / link.path).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise unpacking.refused(because=f"the link {link.path} is broken") from error
        if Path(link.target).is_absolute() or not resolved.is_relative_to(top):
            raise unpacking.refused(because=f"the link {link.path} points outside the folder")


@contextmanager
def _writing(output_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"no space left on the disk that holds {output_dir.absolute().parent}"
            raise BuildError(what, why="nothing was unpacked", hint="df -h") from error
        raise unwritable(output_dir, error, hint="--output ANOTHER_FOLDER") from error
