"""Whether, when and how often a server that ended is started again."""

from __future__ import annotations

STEADY_S = 600.0
"""A server that was ready for so long has its restarts behind it: they count from 0 again."""

_LONGEST_DELAY_S = 60.0


def restart_delay_s(restarts: int) -> float:
    """Return how long to wait before another start: 1 s, then twice as long each time, to 60 s.

    Args:
        restarts: How often it was started again since it was last steady.
    """
    return float(min(2.0**restarts, _LONGEST_DELAY_S))
