"""Computes the time within which repositories have to be ready."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.text.quantities import show_size

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE_TIMEOUT_S = 120.0
BYTES_PER_S = 100e6
"""The speed of a slow network disk; a local one is ten times as fast."""


def default_ready_timeout_s(*repository_dirs: Path) -> tuple[float, str]:
    """Return the ready timeout of repositories, and its explanation."""
    checkpoint_dirs = (path for folder in repository_dirs for path in _checkpoint_dirs(folder))
    folders = (*repository_dirs, *checkpoint_dirs)
    size = sum({folder.resolve(): _size_bytes(folder) for folder in folders}.values())
    seconds = BASE_TIMEOUT_S + size / BYTES_PER_S
    why = (
        f"it may take {seconds:.0f} s to be ready: {BASE_TIMEOUT_S:.0f} s, "
        f"and {show_size(size)} at {BYTES_PER_S / 1e6:.0f} MB/s"
    )
    return seconds, why


def _checkpoint_dirs(repository_dir: Path) -> Iterator[Path]:
    """Yield the folders outside the repository that LLM API models load."""
    for path in repository_dir.glob("*/*/model.yaml"):
        import yaml  # slow to import, and most repositories have none

        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        named = document.get("model") if isinstance(document, dict) else None
        if isinstance(named, str) and Path(named).is_absolute() and Path(named).is_dir():
            yield Path(named)


def _size_bytes(folder: Path) -> int:
    """Return the size of all files below a folder, links to folders followed once."""
    size = 0
    seen: set[Path] = set()
    folders = [folder]
    while folders:
        current = folders.pop().resolve()
        if current in seen:
            continue
        seen.add(current)
        for entry in current.iterdir():
            if entry.is_dir():
                folders.append(entry)
            elif entry.is_file():
                size += entry.stat().st_size
    return size
