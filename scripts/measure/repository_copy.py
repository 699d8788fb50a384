"""A copy of a built repository with a parameter of another value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def set_parameter(path: Path, key: str, value: str) -> None:
    """Give a parameter of a ``config.pbtxt`` another value.

    Raises:
        ValueError: It does not have that parameter exactly once.
    """
    pattern = rf'(key: "{key}" value: \{{ string_value: )"[^"]*"'
    text, count = re.subn(pattern, lambda found: f'{found[1]}"{value}"', path.read_text())
    if count != 1:
        message = f"{path} has {count} parameters {key}"
        raise ValueError(message)
    path.write_text(text)
