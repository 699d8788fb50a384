"""Finds what a folder holds beyond a list of known files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_BYTECODE_DIR = "__pycache__"


def added_to(root: Path, listed: Collection[str]) -> tuple[str, ...]:
    """Return what is below ``root`` and not in ``listed``, sorted.

    Files are named by their path. An empty folder and a link to a folder end in ``/``: Triton
    treats both as a model or a model version. A link in place of a folder with listed files
    counts as that folder. Python's bytecode caches are ignored.
    """
    parents = {path[:end] for path in listed for end, sign in enumerate(path) if sign == "/"}
    return tuple(sorted(set(_below(root, "", parents)) - set(listed)))


def _below(root: Path, prefix: str, parents: Collection[str]) -> Iterator[str]:
    with os.scandir(root / prefix) as entries:
        found = [entry for entry in entries if entry.name != _BYTECODE_DIR]
    if not found and prefix and prefix not in parents:
        yield f"{prefix}/"
    for entry in found:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.is_dir() and entry.is_symlink() and path not in parents:
            yield f"{path}/"
        elif entry.is_dir():
            yield from _below(root, path, parents)
        elif entry.is_file():  # else a broken link
            yield path
