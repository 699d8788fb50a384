"""Recognizes paths that Triton's python backend can handle.

The backend passes its stub's arguments to a shell unquoted, so a space splits a path and the stub
aborts; and without a UTF-8 locale the stub's Python cannot import from a path that is not ASCII.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z0-9._/+-]+")


def is_plain(path: Path) -> bool:
    """Return whether a path reaches the stub unchanged."""
    return _PLAIN.fullmatch(str(path)) is not None
