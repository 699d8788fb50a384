"""Detects that a Python model's process has died, which Triton does not report.

Triton 2.51 still reports such a model as ready and answers each of its requests with an error.
It leaves the process unreaped until it exits itself: a stub that stays a zombie has died, while
one that Triton ended itself (an unload, a reload) is gone at once.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from trtllm_forge.machine.process.lifeline import stat_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_STUB = "triton_python_backend_stub"
UNKNOWN_ENDING = "an exit code that is not known"
STUB_COMMAND = _STUB[:15]
"""The kernel's name of a stub process."""

_SESSION_FIELD = 3
_EXIT_CODE_FIELD = 49
"""Field 52 of ``/proc/<pid>/stat``, counted from the state."""


@dataclass(frozen=True, kw_only=True)
class DeadStub:
    """A Python model's process that ended while its server runs."""

    pid: int
    model: str
    ending: str

    def text(self) -> str:
        """Return it as part of a sentence."""
        model = f" of model {self.model}" if self.model else ""
        return f"the Python process{model} ({self.pid}) ended with {self.ending}"


class StubWatch:
    """The stubs of one server; ``group`` is the process that leads it."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._models: dict[int, str] = {}
        self._suspects: frozenset[int] = frozenset()

    def look(self) -> DeadStub | None:
        """Return a stub found dead twice in a row.

        Call it every second or two: a stub that Triton ends itself is a zombie for a moment.
        """
        zombies = set()
        for pid, state in _members(self._group):
            if state == "Z":
                if _comm(pid) == STUB_COMMAND:
                    zombies.add(pid)
            elif pid not in self._models and (model := _model(pid)):
                self._models[pid] = model
        dead = sorted(self._suspects & zombies)
        self._suspects = frozenset(zombies)
        if not dead:
            return None
        return DeadStub(pid=dead[0], model=self._models.get(dead[0], ""), ending=_ending(dead[0]))


def _members(session: int) -> Iterator[tuple[int, str]]:
    """Yield the processes of a session and their states, including zombies."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = stat_fields(int(entry.name))
            if fields and fields[_SESSION_FIELD] == str(session):
                yield int(entry.name), fields[0]


def _model(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return model_of_command(words)


def model_of_command(words: Sequence[str]) -> str:
    """Return the model of a stub, whose first argument is ``.../MODEL/VERSION/model.py``."""
    if len(words) < 2 or not words[0].endswith(_STUB):
        return ""
    return PurePosixPath(words[1]).parent.parent.name


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _ending(pid: int) -> str:
    fields = stat_fields(pid)
    try:
        status = int(fields[_EXIT_CODE_FIELD])
    except (IndexError, ValueError):
        return UNKNOWN_ENDING
    number = status & 0x7F
    if number:
        return f"signal {signal.Signals(number).name}"
    return f"exit code {status >> 8}"
