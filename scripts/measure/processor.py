"""How much of the processor somebody else used while something was measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT_PATH = Path("/proc/stat")


class ProcessorMeter:
    """Counts from its creation on."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._busy_s = _busy_s()
        self._own_s = _own_s()

    def others(self) -> float:
        """Return the cores that processes outside this run kept busy, on average.

        Only children that have ended count as own, so ask when none is left.
        """
        elapsed_s = time.monotonic() - self._started_s
        foreign_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        return max(0.0, foreign_s / elapsed_s)


def _busy_s() -> float:
    """Return the time all cores were busy since the machine started."""
    ticks = [int(word) for word in _STAT_PATH.read_text().splitlines()[0].split()[1:9]]
    idle, io_wait = ticks[3:5]
    return (sum(ticks) - idle - io_wait) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
