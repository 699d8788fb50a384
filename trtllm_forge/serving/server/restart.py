"""Decides when a server that ended is restarted."""

from __future__ import annotations

STEADY_S = 600.0
"""After being ready this long, a server's restarts count from 0 again."""

_LONGEST_DELAY_S = 60.0


def restart_delay_s(restarts: int) -> float:
    """Return the wait before the next start: 1 s, doubled each time, at most 60 s.

    Args:
        restarts: Number of restarts since it was last steady.
    """
    return float(min(2.0**restarts, _LONGEST_DELAY_S))
