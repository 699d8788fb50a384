"""Digests of files and trees, and the canonical JSON that keys are made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, Union

if TYPE_CHECKING:
    from pathlib import Path

# A quoted name inside ``|`` fails at run time on Python 3.10.
JsonValue: TypeAlias = Union[  # noqa: UP007
    bool, int, float, str, Sequence["JsonValue"], Mapping[str, "JsonValue"], None
]

_CHUNK_BYTES = 1 << 20


def canonical_json(value: JsonValue) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def sha256_text(text: str) -> str:
    """Return the SHA-256 of the UTF-8 bytes of ``text``, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tree(root: Path) -> str:
    """Return one SHA-256 over the relative paths and bytes of all files below ``root``.

    Bytecode caches are left out: importing a file creates them and they change nothing.
    """
    files = {
        path.relative_to(root).as_posix(): sha256_file(path)
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sha256_text(canonical_json(files))
