"""Reads the files that rules look at; what cannot be read or is large counts as absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST_BYTES = 1 << 20


def small_file(path: Path, largest_bytes: int = _LARGEST_BYTES) -> bytes | None:
    """Return a file's content, or None: it is larger, a link to nowhere, or may not be read."""
    try:
        if path.stat().st_size > largest_bytes:
            return None
        return path.read_bytes()
    except OSError:
        return None
