"""Sizes and durations as text, and back: ``1.5 GiB``, ``64m``; ``30d``, ``12h``, ``10s``."""

from __future__ import annotations

import re

from trtllm_forge.errors import ConfigError

GIB = 1 << 30

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_POWERS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_duration(text: str) -> float:
    """Return a duration in seconds.

    Raises:
        ConfigError: The text is not a duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([dhms])", text.strip().lower())
    if match is None:
        what = f'"{text}" is not a duration'
        raise ConfigError(
            what,
            why="write it as 30d, 12h, 45m or 10s",
            hint="forge cache prune --older-than 30d",
        )
    return float(match.group(1)) * _SECONDS[match.group(2)]


def show_duration(seconds: float) -> str:
    """Return a duration in the largest unit that fits, rounded down."""
    for unit, size in _SECONDS.items():
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return "0s"


def show_size(size_bytes: float) -> str:
    """Return a size in the largest unit in which it is at least 1."""
    unit = 0
    while size_bytes >= 1024 and unit < len(_UNITS) - 1:
        size_bytes /= 1024
        unit += 1
    return f"{size_bytes:.0f} {_UNITS[unit]}" if unit == 0 else f"{size_bytes:.1f} {_UNITS[unit]}"


def size_in_bytes(text: str) -> int:
    """Return a size such as ``64m`` or ``2GiB`` in bytes.

    Raises:
        ConfigError: The text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        what = f"{text} is not a size"
        raise ConfigError(what, why="a size is a number and a unit", hint="--shm-size 1g")
    return int(float(match.group(1)) * 1024 ** _POWERS[match.group(2)])
