"""Durations as they are typed and shown: ``30d``, ``12h``, ``45m``, ``10s``."""

from __future__ import annotations

import re

from trtllm_forge.errors import ConfigError

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def parse_duration(text: str) -> float:
    """Return a duration in seconds.

    Raises:
        ConfigError: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([dhms])", text.strip().lower())
    if match is None:
        what = f'"{text}" is no time'
        raise ConfigError(
            what, why="30d, 12h, 45m and 10s are", hint="forge cache prune --older-than 30d"
        )
    return float(match.group(1)) * _SECONDS[match.group(2)]


def show_duration(seconds: float) -> str:
    """Return a duration in its largest unit that fits, rounded down."""
    for unit, size in _SECONDS.items():
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return "0s"
