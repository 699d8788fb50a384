"""Handles SIGTERM in the commands that own a server."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """Exit with 0 on SIGTERM through all context managers, so that the server is stopped.

    A second SIGTERM during the drain ends the drain.
    """

    def leave(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - what signal calls
        raise SystemExit(0)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
