"""Ends a process group when the forge that started it is gone, however it went.

Run as a script, by ``process.ManagedProcess``, in a session of its own::

    python lifeline.py GRACE_S RECORD PATTERN...    stdin: a pipe whose other end forge holds

The first line of stdin is the process group and when its leader started. A further byte means
that forge has cleaned up. The end of the pipe without one means that forge was killed: the
group gets TERM, a wait and KILL, and what matches the patterns is removed; so is the file
``RECORD``, if it is not empty and tells of that very leader. Uses the standard library alone,
so that it starts with ``-I -S``.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

START_TIME_FIELD = 19
"""Field 22 of ``/proc/<pid>/stat``, counted from the state, which is field 3."""

_POLL_S = 0.05


def living_members(group: int) -> tuple[int, ...]:
    """Return the processes of a group that leads its own session, zombies left out."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        fields = stat_fields(int(entry.name))
        if fields and fields[0] not in "ZX" and fields[2] == fields[3] == str(group):
            members.append(int(entry.name))
    return tuple(sorted(members))


def stat_fields(pid: int) -> tuple[str, ...]:
    """Return ``/proc/<pid>/stat`` from the state on, or nothing when there is no such process.

    The command, which stands before the state, is in parentheses and may hold any character.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ()
    return tuple(text[text.rindex(")") + 2 :].split())


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a group; one that is gone is fine."""
    if living_members(group):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)


def wait_for_end(group: int, seconds: float) -> bool:
    """Return whether the last member of a group ended within ``seconds``."""
    deadline = time.monotonic() + seconds
    while living_members(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def remove_leftovers(patterns: tuple[str, ...]) -> None:
    """Remove the files and folders that match; links are removed and not followed."""
    for pattern in patterns:
        for found in glob.glob(pattern):  # noqa: PTH207 - the patterns are absolute
            path = Path(found)
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def remove_record(path: str, pid: int, started_ticks: int) -> None:
    """Remove a server's record, unless it tells of another process by now."""
    try:
        document = json.loads(Path(path).read_text())
        is_own = (document["pid"], document["started_ticks"]) == (pid, started_ticks)
    except (OSError, ValueError, KeyError, TypeError):
        return
    if is_own:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def main() -> None:
    """Wait for forge's word or its end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    grace_s, record, patterns = float(sys.argv[1]), sys.argv[2], tuple(sys.argv[3:])
    stream = sys.stdin.buffer
    line = stream.readline()
    if stream.read(1):
        return
    if line.strip():
        group, started_ticks = map(int, line.split())
        signal_group(group, signal.SIGTERM)
        wait_for_end(group, grace_s)
        signal_group(group, signal.SIGKILL)
        wait_for_end(group, grace_s)
        if record:
            remove_record(record, group, started_ticks)
    remove_leftovers(patterns)


if __name__ == "__main__":
    main()
