"""Pack a model repository into ``NAME.tar.zst``, with the same bytes on every machine.

The archive is PAX tar, compressed by zstd::

    forge.package.json           the index, see ``package_index``
    model_repository/...         sorted by path; fixed times, owners and modes

It ends in a skippable zstd frame that holds the size of everything before it. ``tar`` and ``zstd``
ignore the frame; ``unpack`` sees from it at once whether the file is complete. Equal content gives
equal bytes with the same release of the zstd library, whatever the number of threads.
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
# A frame that every zstd reader skips: magic number, size of the payload, payload.
_TRAILER = struct.Struct("<II8sQ")
_SKIPPABLE_MAGIC = 0x184D2A5E
_TRAILER_WORD = b"forgepkg"
TRAILER_BYTES = _TRAILER.size


@dataclass(frozen=True, kw_only=True)
class PackagePlan:
    """What a package of a folder will contain.

    Attributes:
        source_dir: The model repository.
        sizes: Bytes of each file, by its path below the folder.
        folders: The empty folders.
        links: The links, none of which leaves the folder.
    """

    source_dir: Path
    sizes: Mapping[str, int]
    folders: tuple[str, ...]
    links: tuple[IndexedLink, ...]

    @property
    def size_bytes(self) -> int:
        """Return the total size of all files."""
        return sum(self.sizes.values())


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that was written.

    Attributes:
        path: The file.
        size_bytes: Its size.
        sha256: Digest of its bytes.
        index: Its content.
    """

    path: Path
    size_bytes: int
    sha256: str
    index: PackageIndex


def plan_package(source_dir: Path) -> PackagePlan:
    """Return what would be packaged; bytecode caches are left out.

    Raises:
        ConfigError: The folder is not a model repository, cannot be read, or contains something
            that cannot be packaged: a link out of it, a device, or names that clash elsewhere.
    """
    if not source_dir.is_dir():
        what = f"{source_dir} is not a folder"
        why = "`forge package` needs a repository written by `forge build` or `forge render`"
        raise ConfigError(what, why=why)
    if not any(source_dir.glob("*/config.pbtxt")):
        what = f"{source_dir} is not a model repository: no folder in it has a config.pbtxt"
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
        raise ConfigError(what, why="some systems could not unpack it")
    return plan


def require_writable(plan: PackagePlan, output_path: Path, *, overwrite: bool = False) -> None:
    """Check that the package may be written to ``output_path``.

    Raises:
        ConfigError: It exists, or is inside the folder to be packaged.
    """
    if output_path.resolve().is_relative_to(plan.source_dir.resolve()):
        what = (
            f"the package {output_path} would be inside the folder it packages, {plan.source_dir}"
        )
        raise ConfigError(what, hint=f"--output ../{output_path.name}")
    if output_path.is_dir():
        what = f"{output_path} is a folder, but a package is a file"
        raise ConfigError(what, hint=f"--output {output_path}/{plan.source_dir.name}.tar.zst")
    if output_path.exists() and not overwrite:
        what = f"{output_path} already exists"
        words = ["forge", "package", str(plan.source_dir), "--output", str(output_path), "--force"]
        raise ConfigError(what, why="it is replaced only with --force", hint=shlex.join(words))


def write_package(
    plan: PackagePlan,
    output_path: Path,
    reporter: Reporter,
    *,
    level: int = DEFAULT_LEVEL,
    overwrite: bool = False,
    threads: int | None = None,
) -> Package:
    """Write the package, under another name until it is complete.

    Digests come from the repository's manifest if it has one, so that its files are read only
    once; the bytes read must then match them.

    Args:
        plan: What goes into it.
        output_path: The file.
        reporter: Receives progress.
        level: zstd compression level, 1 to 19.
        overwrite: Whether to replace an existing file.
        threads: Compression threads; None for one per processor. They do not affect the bytes.

    Raises:
        ConfigError: The output cannot be written, or a file cannot be read.
        CheckpointError: A file differs from the manifest, or changed in the meantime.
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
                # At least one worker: without workers zstd splits blocks at other places.
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
    """Return the frame that ends a package; ``size_bytes`` is the size of all before it."""
    payload_bytes = TRAILER_BYTES - 8
    return _TRAILER.pack(_SKIPPABLE_MAGIC, payload_bytes, _TRAILER_WORD, size_bytes)


def load_zstandard() -> Any:
    """Return the zstd library, which other commands do not need.

    Raises:
        PrerequisiteError: It is not installed.
    """
    try:
        import zstandard
    except ImportError as error:
        what = "the Python package zstandard is missing"
        why = "it is needed to write and read packages"
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
            raise ConfigError(what, why=f"it is not a file, folder or link ({kind})")


def _target(root: Path, path: str) -> str:
    """Return the target of a link, relative to its folder."""
    link_path = root / path
    resolved, top = link_path.resolve(), root.resolve()
    if not resolved.is_relative_to(top):
        what = f"{link_path} is a link that points outside the repository"
        why = f"it points to {link_path.readlink()}, which the package would not contain"
        raise ConfigError(what, why=why, hint=f"cp -rL {root} {root.name}-copied")
    if not resolved.exists():
        what = f"{link_path} is a broken link"
        raise ConfigError(what, why=f"it points to {link_path.readlink()}")
    return os.path.relpath(resolved, link_path.parent.resolve())


def _manifest_digests(plan: PackagePlan) -> Mapping[str, IndexedFile]:
    """Return the digests in the repository's manifest, or nothing without one."""
    manifest = read_manifest(plan.source_dir)
    files = manifest.files if manifest else ()
    for file in files:
        if file.path not in plan.sizes:
            what = f"{plan.source_dir} has no {file.path}"
            raise CheckpointError(what, why=f"{MANIFEST_NAME} lists it")
        if plan.sizes[file.path] != file.size_bytes:
            found = plan.sizes[file.path]
            what = f"{plan.source_dir / file.path} has {found} bytes, not {file.size_bytes}"
            raise CheckpointError(what, why=f"{MANIFEST_NAME} lists {file.size_bytes}")
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
                    # tarfile raises an OSError without errno if the file shrank.
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
    """Return a tar member without a trace of the machine, the user or the time."""
    member = tarfile.TarInfo(name)
    member.type = kind
    member.size = size_bytes
    member.mode = _FOLDER_MODE if kind == tarfile.DIRTYPE else _FILE_MODE
    return member


class _DigestingReader:
    """A file for tarfile to copy from, which updates a digest as it is read."""

    def __init__(self, source: IO[bytes], digest: Any) -> None:
        self._source = source
        self._digest = digest

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self._digest.update(chunk)
        return chunk


def _changed(path: Path, *, in_manifest: bool) -> CheckpointError:
    if in_manifest:
        what = f"{path} differs from {MANIFEST_NAME}"
        return CheckpointError(what, why="its digest differs: it was edited or damaged")
    what = f"{path} changed while it was being packaged"
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
    """Turn a failure to read ``path`` into an error that names it."""
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
