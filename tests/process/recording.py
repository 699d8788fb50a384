"""A reporter that remembers, and waiting on a condition."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trtllm_forge.machine.process.lifeline import stat_fields
from trtllm_forge.reporter import SilentReporter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_POLL_S = 0.01


class RecordingReporter(SilentReporter):
    """Keeps commands, lines and notes, in order."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.lines: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def command_started(self, argv: Sequence[str]) -> None:
        self.commands.append(tuple(argv))

    def child_line(self, source: str, line: str) -> None:
        self.lines.append((source, line))

    def note(self, text: str) -> None:
        self.notes.append(text)


def eventually(condition: Callable[[], bool], *, within_s: float = 15.0) -> bool:
    """Return whether a condition came to hold."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"
