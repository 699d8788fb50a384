"""Finds the rank that ended first in the messages of ``mpirun`` or ``srun``.

The lines read here, of Open MPI 5; version 4 differs in names and line breaks::

    prterun noticed that process rank 1 with PID 4711 on node vm exited on
    signal 9 (Killed).

    prterun detected that one or more processes exited with non-zero status,
    thus causing the job to be terminated. The first process to do so was:
       Process name: [prterun-vm-4700@1,1]
       Exit code:    1

and of Slurm::

    srun: error: node7: task 1: Killed
    srun: error: node7: task 1: Exited with exit code 1
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SIGNAL = re.compile(r"noticed that process rank (\d+) .*?exited on\s+signal (\d+)", re.DOTALL)
_CODE = re.compile(
    r"exited with non-zero status.*?Process name: \[\S*,(\d+)\].*?Exit code:\s+(\d+)", re.DOTALL
)
_TASK_CODE = re.compile(r"task (\d+): Exited with exit code (\d+)")
_TASK_KILLED = re.compile(r"task (\d+): (Killed|Terminated|Segmentation fault|Aborted)")
_BLAME = re.compile(r"(prterun|mpirun) (noticed|detected) that|Primary job +term|srun: error: ")
_RULE = re.compile(r"-{20,}")
_WORDS = {
    "Killed": signal.SIGKILL,
    "Terminated": signal.SIGTERM,
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
}


@dataclass(frozen=True, kw_only=True)
class RankEnding:
    """The rank that ended first, with its exit code or minus the signal's number."""

    rank: int
    returncode: int

    def text(self) -> str:
        """Return it in words: ``exit code 1`` or ``signal SIGKILL``."""
        if self.returncode >= 0:
            return f"exit code {self.returncode}"
        try:
            return f"signal {signal.Signals(-self.returncode).name}"
        except ValueError:
            return f"signal {-self.returncode}"


def find_rank_ending(lines: Sequence[str]) -> RankEnding | None:
    """Return the rank that a launcher blames, or None when it blames none."""
    text = "\n".join(lines)
    for pattern, sign in ((_SIGNAL, -1), (_CODE, 1), (_TASK_CODE, 1)):
        if match := pattern.search(text):
            return RankEnding(rank=int(match[1]), returncode=sign * int(match[2]))
    if match := _TASK_KILLED.search(text):
        return RankEnding(rank=int(match[1]), returncode=-_WORDS[match[2]])
    return None


def before_blame(lines: Sequence[str]) -> list[str]:
    """Return the lines of a log before the launcher's messages about the ended rank."""
    own: list[str] = []
    for line in lines:
        if _BLAME.match(line):
            return own[:-1] if own and _RULE.fullmatch(own[-1]) else own
        own.append(line)
    return own
