"""Puts a model repository into one file, ``NAME.tar.zst``, the same bytes wherever it is made.

The archive is PAX tar, compressed by zstd::

    forge.package.json           the index, see ``package_index``
    model_repository/...         sorted by path; fixed times, owners and modes

and ends in a skippable zstd frame with the size of all before it, which ``tar`` and ``zstd`` pass
over, and from which ``unpack`` knows at once that nothing was cut off. Equal content gives equal
bytes with the same release of the zstd library; the number of threads does not count.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shlex
import stat
import struct
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from trtllm_forge.delivery.manifest import read_manifest
from trtllm_forge.delivery.package_index import (
    INDEX_NAME,
    TOP_FOLDER,
    IndexedFile,
    IndexedLink,
    PackageIndex,
    path_obstacle,
)
from trtllm_forge.errors import (
    BuildError,
    CheckpointError,
    ConfigError,
    PrerequisiteError,
    unreadable,
    unwritable,
)
from trtllm_forge.files.staging import staging
from trtllm_forge.triton.repository.names import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from trtllm_forge.reporter import Reporter

PACKAGE_SUFFIX = ".tar.zst"
DEFAULT_LEVEL = 3

_CHUNK_BYTES = 1 << 20
_FILE_MODE = 0o644
_FOLDER_MODE = 0o755
# A frame that every zstd reader skips: magic number, payload's size, payload.
_TRAILER = struct.Struct("<II8sQ")
_SKIPPABLE_MAGIC = 0x184D2A5E
_TRAILER_WORD = b"forgepkg"
TRAILER_BYTES = _TRAILER.size


@dataclass(frozen=True, kw_only=True)
class PackagePlan:
    """What of a folder goes into a package.

    Attributes:
        source_dir: The model repository.
        sizes: Bytes of each file, by its path below the folder.
        folders: The empty folders.
        links: The links, all of which stay in the folder.
    """

    source_dir: Path
    sizes: Mapping[str, int]
    folders: tuple[str, ...]
    links: tuple[IndexedLink, ...]

    @property
    def size_bytes(self) -> int:
        """Return the size of all files together."""
        return sum(self.sizes.values())


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that was written.

    Attributes:
        path: The file.
        size_bytes: Its size.
        sha256: Of its bytes.
        index: What it holds.
    """

    path: Path
    size_bytes: int
    sha256: str
    index: PackageIndex


def plan_package(source_dir: Path) -> PackagePlan:
    """Return what would be packaged; bytecode caches are left out.

    Raises:
        ConfigError: The folder is no model repository, cannot be read, or holds what a package
            cannot: a link that leaves it, a device, or names that are one on other systems.
    """
    if not source_dir.is_dir():
        what = f"{source_dir} is no folder"
        raise ConfigError(what, why="a model repository is packaged, as build and render write it")
    if not any(source_dir.glob("*/config.pbtxt")):
        what = f"{source_dir} is no model repository: no folder in it has a config.pbtxt"
        raise ConfigError(what)
    sizes: dict[str, int] = {}
    folders: list[str] = []
    links: list[IndexedLink] = []
    try:
        _collect(source_dir, "", sizes, folders, links)
    except OSError as error:
        raise unreadable(source_dir, error) from error
    plan = PackagePlan(
        source_dir=source_dir,
        sizes=dict(sorted(sizes.items())),
        folders=tuple(sorted(folders)),
        links=tuple(sorted(links)),
    )
    paths = [*plan.sizes, *plan.folders, *(link.path for link in plan.links)]
    if obstacle := path_obstacle(paths):
        what = f"{source_dir} cannot be packaged: {obstacle}"
        raise ConfigError(what, why="not every system could unpack it")
    return plan


def require_writable(plan: PackagePlan, output_path: Path, *, overwrite: bool = False) -> None:
    """Raise unless the package may be written to ``output_path``.

    Raises:
        ConfigError: It exists, or lies in the folder that is packaged.
    """
    if output_path.resolve().is_relative_to(plan.source_dir.resolve()):
        what = f"the package {output_path} would lie in what it packages, {plan.source_dir}"
        raise ConfigError(what, hint=f"--output ../{output_path.name}")
    if output_path.is_dir():
        what = f"{output_path} is a folder, the package is a file"
        raise ConfigError(what, hint=f"--output {output_path}/{plan.source_dir.name}.tar.zst")
    if output_path.exists() and not overwrite:
        what = f"{output_path} exists"
        words = ["forge", "package", str(plan.source_dir), "--output", str(output_path), "--force"]
        raise ConfigError(what, why="a package replaces no file unasked", hint=shlex.join(words))


def write_package(
    plan: PackagePlan,
    output_path: Path,
    reporter: Reporter,
    *,
    level: int = DEFAULT_LEVEL,
    overwrite: bool = False,
    threads: int | None = None,
) -> Package:
    """Write the package, under another name until it is whole.

    Digests come from the repository's manifest where it has one, so that its files are read
    once; what is then read has to agree.

    Args:
        plan: What goes into it.
        output_path: The file.
        reporter: Told how far it is.
        level: zstd's, 1 to 19.
        overwrite: Whether an existing file is replaced.
        threads: That compress; None for one per processor. The bytes do not depend on it.

    Raises:
        ConfigError: The output cannot be written, or a file cannot be read.
        CheckpointError: A file is not what the manifest says, or changed meanwhile.
        BuildError: No space is left.
        PrerequisiteError: The library for zstd is missing.
    """
    require_writable(plan, output_path, overwrite=overwrite)
    zstandard = load_zstandard()
    known = _manifest_digests(plan)
    index = _make_index(plan, known, reporter)
    workers = threads or os.cpu_count() or 1
    with _writing(output_path):
        output_path.parent.mkdir(parents=True, exist_ok=True)
        with staging(output_path, "part") as part_path:
            with part_path.open("w+b") as file:
                # Also with one processor: without workers zstd cuts its blocks in other places.
                compressor = zstandard.ZstdCompressor(level=level, threads=max(1, workers))
                with compressor.stream_writer(file, closefd=False) as stream:
                    _write_members(plan, index, stream, known, reporter)
                file.write(trailer_of(file.tell()))
                file.flush()
                os.fsync(file.fileno())
                size_bytes = file.tell()
                sha256 = _sha256_of(file)
            part_path.replace(output_path)
    return Package(path=output_path, size_bytes=size_bytes, sha256=sha256, index=index)


def trailer_of(size_bytes: int) -> bytes:
    """Return the frame that ends a package, of which ``size_bytes`` come before it."""
    payload_bytes = TRAILER_BYTES - 8
    return _TRAILER.pack(_SKIPPABLE_MAGIC, payload_bytes, _TRAILER_WORD, size_bytes)


def load_zstandard() -> Any:
    """Return the zstd library, which no other command needs.

    Raises:
        PrerequisiteError: It is not installed.
    """
    try:
        import zstandard
    except ImportError as error:
        what = "the package zstandard is missing"
        why = "it compresses packages, and reads them"
        hint = "pip install --force-reinstall trtllm-forge"
        raise PrerequisiteError(what, why=why, hint=hint) from error
    return zstandard


def _collect(
    root: Path, prefix: str, sizes: dict[str, int], folders: list[str], links: list[IndexedLink]
) -> None:
    with os.scandir(root / prefix) as entries:
        found = [entry for entry in entries if entry.name != "__pycache__"]
    if not found and prefix:
        folders.append(prefix)
    for entry in found:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.is_symlink():
            links.append(IndexedLink(path=path, target=_target(root, path)))
        elif entry.is_dir():
            _collect(root, path, sizes, folders, links)
        elif entry.is_file():
            sizes[path] = entry.stat().st_size
        else:
            what = f"{root / path} cannot be packaged"
            kind = stat.filemode(entry.stat(follow_symlinks=False).st_mode)
            raise ConfigError(what, why=f"it is neither file, folder nor link ({kind})")


def _target(root: Path, path: str) -> str:
    """Return where a link points, relative to its folder."""
    link_path = root / path
    resolved, top = link_path.resolve(), root.resolve()
    if not resolved.is_relative_to(top):
        what = f"{link_path} is a link that leaves the repository"
        why = f"it points to {link_path.readlink()}, which the package would not hold"
        raise ConfigError(what, why=why, hint=f"cp -rL {root} {root.name}-copied")
    if not resolved.exists():
        what = f"{link_path} is a link to nothing"
        raise ConfigError(what, why=f"it points to {link_path.readlink()}")
    return os.path.relpath(resolved, link_path.parent.resolve())


def _manifest_digests(plan: PackagePlan) -> Mapping[str, IndexedFile]:
    """Return what the repository's own manifest says of its files, nothing without one."""
    manifest = read_manifest(plan.source_dir)
    files = manifest.files if manifest else ()
    for file in files:
        if file.path not in plan.sizes:
            what = f"{plan.source_dir} lacks {file.path}"
            raise CheckpointError(what, why=f"{MANIFEST_NAME} lists it")
        if plan.sizes[file.path] != file.size_bytes:
            found = plan.sizes[file.path]
            what = f"{plan.source_dir / file.path} has {found} bytes, not {file.size_bytes}"
            raise CheckpointError(what, why=f"{MANIFEST_NAME} says so")
    return {
        file.path: IndexedFile(path=file.path, sha256=file.sha256, size_bytes=file.size_bytes)
        for file in files
    }


def _make_index(
    plan: PackagePlan, known: Mapping[str, IndexedFile], reporter: Reporter
) -> PackageIndex:
    files = []
    done, total = 0, sum(size for path, size in plan.sizes.items() if path not in known)
    for path, size_bytes in plan.sizes.items():
        file = known.get(path)
        if file is None:
            digest = hashlib.sha256()
            for chunk in _chunks(plan.source_dir / path):
                digest.update(chunk)
                done += len(chunk)
                reporter.progress("digest", done, total, "bytes")
            file = IndexedFile(path=path, sha256=digest.hexdigest(), size_bytes=size_bytes)
        files.append(file)
    return PackageIndex(files=tuple(files), folders=plan.folders, links=plan.links)


def _write_members(
    plan: PackagePlan,
    index: PackageIndex,
    stream: IO[bytes],
    known: Mapping[str, IndexedFile],
    reporter: Reporter,
) -> None:
    done = 0
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        text = index.to_text().encode()
        archive.addfile(_member(INDEX_NAME, size_bytes=len(text)), io.BytesIO(text))
        for file in index.files:
            path = plan.source_dir / file.path
            digest = hashlib.sha256()
            with _reading(path), path.open("rb") as source:
                reader = _DigestingReader(source, digest)
                member = _member(f"{TOP_FOLDER}/{file.path}", size_bytes=file.size_bytes)
                try:
                    archive.addfile(member, reader)  # type: ignore[arg-type]
                except OSError as error:
                    # tarfile gives the end of a file that shrank no number.
                    if error.errno is None:
                        raise _changed(path, in_manifest=file.path in known) from error
                    raise
                if source.read(1) or digest.hexdigest() != file.sha256:
                    raise _changed(path, in_manifest=file.path in known)
            done += file.size_bytes
            reporter.progress("package", done, index.size_bytes, "bytes")
        for folder in index.folders:
            archive.addfile(_member(f"{TOP_FOLDER}/{folder}", kind=tarfile.DIRTYPE))
        for link in index.links:
            member = _member(f"{TOP_FOLDER}/{link.path}", kind=tarfile.SYMTYPE)
            member.linkname = link.target
            archive.addfile(member)


def _member(name: str, *, size_bytes: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    """Return a member that says nothing of this machine, this user or this day."""
    member = tarfile.TarInfo(name)
    member.type = kind
    member.size = size_bytes
    member.mode = _FOLDER_MODE if kind == tarfile.DIRTYPE else _FILE_MODE
    return member


class _DigestingReader:
    """What tarfile copies from: a file, whose digest is taken on the way."""

    def __init__(self, source: IO[bytes], digest: Any) -> None:
        self._source = source
        self._digest = digest

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self._digest.update(chunk)
        return chunk


def _changed(path: Path, *, in_manifest: bool) -> CheckpointError:
    if in_manifest:
        what = f"{path} is not what {MANIFEST_NAME} says"
        return CheckpointError(what, why="its digest differs: it was edited or damaged since")
    what = f"{path} changed while it was packaged"
    return CheckpointError(what, why="its bytes differ from those read a moment before")


def _chunks(path: Path) -> Iterator[bytes]:
    with _reading(path), path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _sha256_of(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file that cannot be read; what the output raises has names of its own."""
    try:
        yield
    except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
        raise unreadable(path, error) from error


@contextmanager
def _writing(output_path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"no space left on the disk that holds {output_path.absolute().parent}"
            raise BuildError(what, hint="--output ANOTHER_DISK/NAME.tar.zst") from error
        raise unwritable(output_path, error) from error
