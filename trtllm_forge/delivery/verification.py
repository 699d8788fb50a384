"""Compare a repository with its manifest.

A full verification compares every digest. The quick one, for the start of a server, reads small
files and compares large ones by size and time; a large file written after the manifest is read
once and remembered in ``<cache>/digests.json``. Python's bytecode beside a model is ignored. The
manifest is not signed: this detects accidents, not tampering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trtllm_forge.delivery.manifest import UNLISTED
from trtllm_forge.files.added import added_to
from trtllm_forge.files.digest import sha256_file
from trtllm_forge.files.known_digests import digest_files
from trtllm_forge.triton.repository.names import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtllm_forge.delivery.manifest import Manifest
    from trtllm_forge.pipeline.store import OutputFile
    from trtllm_forge.reporter import Reporter

Depth = Literal["times", "full"]

_READ_UP_TO_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How a repository differs from its manifest.

    Attributes:
        added: Files not in the manifest; empty and linked folders end in ``/``.
        missing: Files in the manifest that do not exist.
        changed: Files with another size or digest.
        files: Number of files in the manifest.
        size_bytes: Their total size.
    """

    added: tuple[str, ...]
    missing: tuple[str, ...]
    changed: tuple[str, ...]
    files: int
    size_bytes: int

    @property
    def is_as_built(self) -> bool:
        """Return whether nothing differs."""
        return not (self.added or self.missing or self.changed)

    def lines(self) -> list[str]:
        """Return the differences, one line each."""
        return [
            f"{word:<9}{name}"
            for word, names in (
                ("changed", self.changed),
                ("missing", self.missing),
                ("added", self.added),
            )
            for name in names
        ]


def verify_files(
    repository_dir: Path,
    manifest: Manifest,
    *,
    depth: Depth,
    cache_dir: Path,
    reporter: Reporter,
) -> Verification:
    """Compare the files of a repository with its manifest.

    Args:
        repository_dir: The repository.
        manifest: Its manifest.
        depth: ``full`` reads every file; ``times`` reads only small files, and large ones that were
            written after the manifest and are not yet remembered.
        cache_dir: Where digests of large files are remembered.
        reporter: Receives progress, and a note before slow reads.
    """
    listed = {file.path: file for file in manifest.files}
    # A link to a folder elsewhere counts as the folder.
    present = [f for name, f in sorted(listed.items()) if (repository_dir / name).is_file()]
    changed = {f.path for f in present if (repository_dir / f.path).stat().st_size != f.size_bytes}
    to_read = [file for file in present if file.path not in changed]
    if depth == "full":
        changed |= _differing(repository_dir, to_read, reporter)
    else:
        small = [file for file in to_read if file.size_bytes <= _READ_UP_TO_BYTES]
        changed |= {f.path for f in small if sha256_file(repository_dir / f.path) != f.sha256}
        written_ns = (repository_dir / MANIFEST_NAME).stat().st_mtime_ns
        touched = [
            file
            for file in to_read
            if file.size_bytes > _READ_UP_TO_BYTES
            and (repository_dir / file.path).stat().st_mtime_ns > written_ns
        ]
        changed |= _differing_touched(repository_dir, touched, cache_dir, reporter)
    return Verification(
        added=added_to(repository_dir, {*listed, *UNLISTED}),
        missing=tuple(sorted(set(listed) - {file.path for file in present})),
        changed=tuple(sorted(changed)),
        files=len(listed),
        size_bytes=sum(file.size_bytes for file in manifest.files),
    )


def _differing(repository_dir: Path, files: Sequence[OutputFile], reporter: Reporter) -> set[str]:
    """Return the files whose digest differs; reads every file."""
    total = sum(file.size_bytes for file in files)
    done = 0
    differing = set()
    for file in files:
        if sha256_file(repository_dir / file.path) != file.sha256:
            differing.add(file.path)
        done += file.size_bytes
        reporter.progress("verify", done, total, "bytes")
    return differing


def _differing_touched(
    repository_dir: Path, files: Sequence[OutputFile], cache_dir: Path, reporter: Reporter
) -> set[str]:
    if not files:
        return set()
    reporter.note(
        f"reading {', '.join(file.path for file in files)}: newer than {MANIFEST_NAME}, "
        "as in a copied repository"
    )
    paths = {repository_dir / file.path: file for file in files}
    digests = digest_files(list(paths), cache_dir, reporter)
    return {file.path for path, file in paths.items() if digests[path] != file.sha256}
