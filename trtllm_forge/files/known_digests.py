"""Remembered digests of the files of a local checkpoint.

Each file is hashed once and remembered by path, size and modification time, in
``<cache>/digests.json``::

    {"schema": 1, "files": {"/abs/path": {"size_bytes": 1, "mtime_ns": 1, "sha256": "..."}}}
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge.files.lock import exclusive
from trtllm_forge.files.staging import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.reporter import Reporter

_SCHEMA = 1
_CHUNK_BYTES = 8 << 20


def digest_files(paths: Sequence[Path], cache_dir: Path, reporter: Reporter) -> dict[Path, str]:
    """Return the SHA-256 of each file, in hex, reading only new or changed files."""
    memory_path = cache_dir / "digests.json"
    remembered = _read(memory_path)
    digests: dict[Path, str] = {}
    fresh: dict[str, dict[str, Any]] = {}
    for path in paths:
        known = remembered.get(str(path.absolute()))
        stat = path.stat()
        if known and (known["size_bytes"], known["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns):
            digests[path] = str(known["sha256"])
    unknown = [path for path in paths if path not in digests]
    total = sum(path.stat().st_size for path in unknown)
    done = 0
    for path in unknown:
        before = path.stat()
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                reporter.progress("hashing", done, total, "bytes")
        digests[path] = digest.hexdigest()
        after = path.stat()
        # A file that changed while it was read is hashed again next time.
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            fresh[str(path.absolute())] = {
                "size_bytes": before.st_size,
                "mtime_ns": before.st_mtime_ns,
                "sha256": digests[path],
            }
    if fresh:
        # Without this record the files are read again next time; the store reports a bad folder.
        with suppress(OSError):
            _remember(memory_path, fresh)
    return digests


def _read(memory_path: Path) -> dict[str, dict[str, Any]]:
    try:
        document = json.loads(memory_path.read_text(encoding="utf-8"))
        if document["schema"] != _SCHEMA:
            return {}
        return {
            str(path): entry
            for path, entry in document["files"].items()
            if {"size_bytes", "mtime_ns", "sha256"} <= entry.keys()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # An unreadable record only costs hashing the weights once more.
        return {}


def _remember(memory_path: Path, fresh: dict[str, dict[str, Any]]) -> None:
    memory_path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(memory_path.with_name("digests.lock")):
        files = {path: entry for path, entry in _read(memory_path).items() if Path(path).exists()}
        document = {"schema": _SCHEMA, "files": {**files, **fresh}}
        write_whole(memory_path, json.dumps(document, indent=1, sort_keys=True) + "\n")
