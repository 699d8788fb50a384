"""Reads the files that rules look at; what cannot be read or is large counts as absent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import reason_of

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


def read_json(path: Any) -> tuple[dict[str, Any], str]:
    """Return a JSON object, or nothing and why it cannot be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        return {}, f"it is not UTF-8: {error.reason}"
    except OSError as error:
        return {}, reason_of(error)
    except ValueError as error:
        return {}, str(error)
    if not isinstance(document, dict):
        return {}, f"it holds {type(document).__name__}, not an object"
    return document, ""


@dataclass(frozen=True, kw_only=True)
class ResolvedPath:
    """A path of a configuration, looked for on this machine.

    Attributes:
        written: As it stands in the file.
        local: Where it would be here, or None where that cannot be told.
        is_inside: Whether it lies in the repository.
        is_expected: Whether it has to be here: it lies in the repository, or other paths
            outside of it are found.
    """

    written: str
    local: Path | None
    is_inside: bool
    is_expected: bool

    @property
    def exists(self) -> bool:
        """Return whether there is something here."""
        return self.local is not None and self.local.exists()

    @property
    def lack(self) -> str:
        """Return in words why it is no folder."""
        return f"{self.written} is {'a file, not a folder' if self.exists else 'missing'}"
