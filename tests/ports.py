"""Ports for the servers of tests, apart from what other processes of the same run take.

A port that the system calls free can be given away again before the server has taken it. So each
process of a run counts through a range of its own, below the ports that Linux gives to clients.
"""

from __future__ import annotations

import itertools
import os
import random

from trtllm_forge.serving.plan.ports import is_port_free

_FIRST_PORT = 10_000
_RANGE_SIZE = 2_000
_RANGES = 11


def _own_range() -> range:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    first = _FIRST_PORT + int(worker) % _RANGES * _RANGE_SIZE
    return range(first, first + _RANGE_SIZE)


# Begins anywhere: another run on this machine counts through the same ranges.
_offsets = itertools.count(random.randrange(_RANGE_SIZE))


def free_port(host: str) -> int:
    """Return a port that is free now, and that no other test of this run is given."""
    ports = _own_range()
    return next(
        port
        for port in (ports[offset % _RANGE_SIZE] for offset in _offsets)
        if is_port_free(host, port)
    )


def port_flags() -> list[str]:
    """Return the flags of ``forge serve`` for three free ports."""
    return [f"--{name}-port={free_port('127.0.0.1')}" for name in ("http", "grpc", "metrics")]
